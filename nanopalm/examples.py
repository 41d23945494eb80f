"""
What an example is: a dict with one image, sound or video, and its captions or a question about it.

    {'image': '/path/a.jpg', 'caption': ['a cat', 'a cat on a mat'], 'id': 0}
    {'video': '/path/a.mp4', 'question': 'is it asleep?', 'answers': ['yes', 'yes', 'no'], 'id': 1}
"""

# the keys of an example under which its file may stand
MEDIA = ('image', 'audio', 'video')
MAX_LINES_SHOWN = 20


class BadData(Exception):
    """An error in the user's data, with a message for the user."""


def bullet_list(lines):
    """Returns the end of a message: the lines one below the other, the first of them if there are
    many."""
    shown = list(lines[:MAX_LINES_SHOWN])
    if len(lines) > MAX_LINES_SHOWN:
        shown.append(f'... and {len(lines) - MAX_LINES_SHOWN} more')
    return ''.join(f'\n  {line}' for line in shown)


def medium_of(example):
    """Returns 'image', 'audio' or 'video': the key under which the example's file stands."""
    for medium in MEDIA:
        if medium in example:
            return medium
    raise KeyError(f'an example has one of the keys {", ".join(MEDIA)}')


def path_of(example):
    """Returns the path of the example's image, sound or video."""
    return example[medium_of(example)]


def target_texts(example):
    """Returns the texts that a model learns to write for the example: answers or captions."""
    if 'question' in example:
        return example['answers']
    return example['caption']


def merge_captions(examples):
    """Returns one example for each image, sound or video, with the captions of all its examples."""
    merged = {}
    for example in examples:
        path = path_of(example)
        if path not in merged:
            merged[path] = {**example, 'caption': []}
        merged[path]['caption'].extend(example['caption'])
    return list(merged.values())


def spread_examples(examples, limit):
    """Returns so many of the examples, evenly spread over the list: `limit` is 0 for all, a
    fraction up to 1, or a number of examples. At least one is left."""
    count = int(limit)
    if 0 < limit <= 1:
        count = max(1, round(limit * len(examples)))
    if count == 0 or count >= len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]
