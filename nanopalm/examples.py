"""
What an example is: one picture, sound or video with its captions, or with a question and its answers.
"""

MEDIA = ('image', 'audio', 'video')


class BadData(Exception):
    """What is wrong with the user's data, in words for the user."""


MAX_ERRORS_SHOWN = 20


def bullet_list(lines):
    """The first of them, to be printed one below the other."""
    more = [f'... and {len(lines) - MAX_ERRORS_SHOWN} more'] if len(lines) > MAX_ERRORS_SHOWN else []
    return ''.join(f'\n  {line}' for line in lines[:MAX_ERRORS_SHOWN] + more)


def medium_of(row):
    """'image', 'audio' or 'video': what a row shows, and the key under which its file stands."""
    return next(medium for medium in MEDIA if medium in row)


def path_of(row):
    """The file that a row shows."""
    return row[medium_of(row)]


def target_texts(row):
    """The texts that a model may say of this row."""
    return row['answers'] if 'question' in row else row['caption']


def merge_captions(rows):
    """Returns one row for each picture, sound or video, with the captions of all its rows."""
    merged = {}
    for row in rows:
        first = merged.setdefault(path_of(row), dict(row, caption=[]))
        first['caption'].extend(row['caption'])
    return list(merged.values())


def spread_examples(rows, limit):
    """Returns so many of the rows, evenly spread over them: `limit` is 0 for all, a fraction up to
    1, or a number of rows. At least one is left."""
    count = int(limit)
    if 0 < limit <= 1:
        count = max(1, round(limit * len(rows)))
    if count == 0 or count >= len(rows):
        return rows
    return [rows[i * len(rows) // count] for i in range(count)]
