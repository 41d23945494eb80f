"""
eval_caption.py: its tokenizer, its scores, its page, and the script from end to end. `pytest tests/test_eval_caption.py`
"""
import json
import shutil
from html.parser import HTMLParser

import pytest
import torch
from conftest import flags, start
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from safetensors import safe_open
from safetensors.torch import save_file

from eval_caption import inputs
from nanopalm.checkpoint import load_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.generate import generate_texts
from nanopalm.html_report import captions_page
from nanopalm.scores import score_captions, tokenize

TINY = dict(device='cpu', dtype='float32', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=8, max_iters=1, num_workers=0)
REFERENCES = [['A brown dog runs on the beach.', 'A dog is running.'], ['Two cats sit on a red couch.'], ['A man rides a big wave.', 'A surfer.']]


# ---- tokens: what Stanford's PTBTokenizer 3.4.1, as pycocoevalcap calls it, gave for the left ---------------------------

@pytest.mark.parametrize('text, tokens', [
    ('A cat.', 'a cat'),
    ('  Two\tdogs,  one ball ;  no cat:  ', 'two dogs one ball no cat'),
    ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
    ("they're here, I've seen, she'll, he'd, I'm, can't, cannot, won't", "they 're here i 've seen she 'll he 'd i 'm ca n't can not wo n't"),
    ("the dogs' bowl at 3 o'clock, in the '90s", "the dogs bowl at 3 o'clock in the '90s"),
    ("gonna wanna gotta gimme lemme 'tis", "gon na wan na got ta gim me lem me 't is"),
    ('A black-and-white cat -- sitting - on a t-shirt', 'a black-and-white cat sitting on a t-shirt'),
    ('dash\u2013en dash\u2014em a \u2013 b', 'dash en dash em a b'),
    ('"Quoted" \'single\' \u201ccurly\u201d \u2018both\u2019 `back`', 'quoted single curly both back'),
    ('a sign, "another \'nested\' one."', 'a sign another nested one'),
    ('a bus (red) [left]', 'a bus -lrb- red -rrb- -lsb- left -rsb-'),
    ('1,000 3.5 $5 5% 10:30 1/2 2nd 3-year-old .5', '1,000 3.5 $ 5 5 % 10:30 1/2 2nd 3-year-old .5'),
    ('Mr. Smith at 5 p.m. on Main St.', 'mr. smith at 5 p.m. on main st.'),
    ('He lives in the U.S.', 'he lives in the u.s.'),
    ('a boat/ship, B&W, mustard & ketchup #5', 'a boat/ship b&w mustard & ketchup # 5'),
    ('what?! yes? dots... two.. ellipsis\u2026', 'what ?! yes dots two ellipsis'),
    ('caf\u00e9 na\u00efve \u00dcbung \u732b', 'caf\u00e9 na\u00efve \u00fcbung \u732b'),
    ('cafe\u0301', 'caf\u00e9'),
    ('\u00a35 \u20ac10 \u00bd cup', '# 5 $ 10 1/2 cup'),
    ('... - "', ''),
    ('', ''),
])
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


def test_curly_apostrophes_are_straight_ones():
    """Where it is not Stanford's: there don\u2019t and don't are the same, but o\u2019clock and o'clock are not."""
    text = "it's 3 o'clock, don't"
    assert tokenize(text.replace("'", '\u2019')) == tokenize(text)


# ---- scores ---------------------------------------------------------------------------------------------------------

def test_identical_captions_have_the_highest_scores():
    texts = [r[0] for r in REFERENCES]
    scores, ciders, _ = score_captions([[t] for t in texts], [t.upper().replace('.', ' !') for t in texts])
    assert list(scores) == ['CIDEr', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L']
    assert list(scores.values()) == pytest.approx([1000, 100, 100, 100, 100, 100], abs=1e-4) and ciders == pytest.approx([1000] * 3)


@pytest.mark.parametrize('said', ['purple elephants', '', '...', 'zebra zebra zebra zebra zebra'])
def test_captions_without_a_common_word_score_zero(said):
    scores, ciders, _ = score_captions(REFERENCES, [said] * 3)
    assert list(scores.values()) == pytest.approx([0] * 6, abs=1e-3) and ciders == [0, 0, 0]


def test_scores_are_pycocoevalcaps_own(capsys):
    said = ['A dog runs on a beach!', 'Two dogs sit, on a "red" couch.', "It isn't a wave."]
    scores, ciders, _ = score_captions(REFERENCES, said)
    assert capsys.readouterr().out == ''
    refs = {0: ['a brown dog runs on the beach', 'a dog is running'], 1: ['two cats sit on a red couch'], 2: ['a man rides a big wave', 'a surfer']}
    hyps = {0: ['a dog runs on a beach'], 1: ['two dogs sit on a red couch'], 2: ["it is n't a wave"]}
    cider, each = Cider().compute_score(refs, hyps)
    expected = [cider, *Bleu(4).compute_score(refs, hyps, verbose=0)[0], Rouge().compute_score(refs, hyps)[0]]
    assert list(scores.values()) == pytest.approx([100 * e for e in expected])
    assert ciders == pytest.approx(100 * each) and 0 < ciders[2] < ciders[0] < 1000


def test_rows_of_one_picture_are_one_row():
    rows = [dict(image=i, caption=[c], id=n) for n, (i, c) in enumerate([('a', 'x'), ('b', 'y'), ('a', 'z'), ('c', 'w'), ('d', 'v')])]
    assert [(r['image'], r['caption']) for r in inputs(rows)] == [('a', ['x', 'z']), ('b', ['y']), ('c', ['w']), ('d', ['v'])]
    assert [r['image'] for r in inputs(rows, 2)] == ['a', 'c'] and len(inputs(rows, 9)) == 4


@pytest.mark.parametrize('captions', [[], ['...'], ['', ' ']])
def test_a_row_without_references_is_named(captions):
    with pytest.raises(SystemExit, match=r"row 7 \(b.png\) has no reference caption"):
        inputs([dict(image='a.png', caption=['A cat.'], id=6), dict(image='b.png', caption=captions, id=7)])


def test_an_empty_split_is_an_error():
    with pytest.raises(SystemExit, match="'test' is empty"):
        inputs([])


# ---- the page -------------------------------------------------------------------------------------------------------

class Parsed(HTMLParser):
    """Every tag with its attributes, and all text outside of style and script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags[-1][0] not in ('style', 'script'):
            self.text += data


EVIL = '<script>alert("1")</script> & \'"><img src=http://x.example/y onerror=z>'


def result(pictures, blind=True):
    said = [EVIL, '', 'A red circle.', 'A \u732b.']
    rows = [dict(id=EVIL, image=str(pictures / f'images/{i}.png'), references=['A red circle.', EVIL], caption=c, cider=10.0 * i)
            | (dict(blind_caption=EVIL, blind_cider=5.0) if blind else {}) for i, c in enumerate(said)]
    scores = {'CIDEr': 80.0, 'BLEU-1': 50.0}
    return dict(scores=scores, tokenizer=EVIL, missing=dict(SPICE=EVIL), rows=rows, knobs=dict(split='test', page_rows=1000, out_dir=EVIL),
                trained_with=dict(dataset=EVIL, llm=EVIL, encoder=EVIL, connector='linear', note=EVIL)) | (dict(blind_scores=scores | {'CIDEr': 20.0}) if blind else {})


@pytest.mark.parametrize('blind', [True, False])
def test_page_is_self_contained_and_escapes(pictures, blind):
    html = captions_page(result(pictures, blind))
    seen = Parsed(html)
    assert [t for t, _ in seen.tags].count('article') == [t for t, _ in seen.tags].count('img') == 4
    assert [t for t, _ in seen.tags].count('script') == 1 and not any(k.startswith('on') for _, a in seen.tags for k in a)
    assert all(a['src'].startswith('data:image/jpeg;base64,') for _, a in seen.tags if 'src' in a)
    assert not any(k in a for _, a in seen.tags for k in ('href', 'action', 'srcset')) and 'url(' not in html and '@import' not in html
    assert seen.text.count(EVIL) >= 4 + 1 + 4 * blind           # references, a caption, the blind caption of every card
    assert '80.0' in seen.text and ('4.0\u00d7' in seen.text) == blind and ('blind' in seen.text) == blind
    json.dumps(result(pictures))


def test_page_shows_so_many_rows(pictures):
    r = result(pictures)
    r['knobs']['page_rows'] = 2
    assert captions_page(r).count('<article') == 2 and '4 captions' in captions_page(r)


def test_page_says_which_file_is_unreadable(pictures, tmp_path):
    r = result(pictures, True)
    (tmp_path / 'torn.png').write_bytes(b'no picture')
    r['rows'][0]['image'] = str(tmp_path / 'torn.png')          # a blind model has captioned it without reading it
    html = captions_page(r)
    assert 'torn.png: not a readable picture' in html and html.count('<article') == len(r['rows'])


def test_blind_score_of_zero_has_no_ratio(pictures):
    r = result(pictures)
    r['blind_scores']['CIDEr'] = 0.0
    assert '\u00d7' not in Parsed(captions_page(r)).text


# ---- the script -----------------------------------------------------------------------------------------------------

def test_script(run, llm, encoder, pictures, tmp_path):
    see, blind, knobs = tmp_path / 'see', tmp_path / 'blind', TINY | dict(llm=llm, dataset=pictures, cache_dir=tmp_path / 'cache')
    run('train.py', *flags(**knobs, encoder=encoder, out_dir=see))
    run('train.py', *flags(**knobs, encoder=None, out_dir=blind))
    evaluate = dict(out_dir=see, blind_dir=blind, device='cpu', dtype='float32', max_new_tokens=6, batch_size=3)
    out = run('eval_caption.py', *flags(**evaluate))
    r = json.loads((see / 'eval_test.json').read_text())
    assert len(r['rows']) == 4 and all(len(row['references']) == 2 for row in r['rows'])
    for side in '', 'blind_':
        scores, ciders, _ = score_captions([row['references'] for row in r['rows']], [row[side + 'caption'] for row in r['rows']])
        assert r[side + 'scores'] == scores and [row[side + 'cider'] for row in r['rows']] == ciders and r['missing'] == {}
        assert f"{scores['ROUGE-L']:.2f}" in out
    assert len({row['blind_caption'] for row in r['rows']}) == 1
    assert r['knobs']['num_beams'] == 3 and r['trained_with']['llm'] == str(llm) and 'PTB' in r['tokenizer']
    assert set(r['knobs']) == {
        'out_dir', 'which', 'blind_dir', 'dataset', 'data_dir', 'instruction', 'answer_prompt',
        'split', 'max_rows', 'page_rows', 'java', 'num_beams', 'max_new_tokens', 'length_penalty',
        'repetition_penalty', 'do_sample', 'temperature', 'top_k', 'top_p', 'num_return_sequences',
        'seed', 'batch_size', 'device', 'dtype', 'compile', 'bad_rows'}
    assert 'PTB' in (see / 'eval_test.html').read_text() and sorted(p.name for p in see.glob('eval_*')) == ['eval_test.html', 'eval_test.json']

    run('eval_caption.py', *flags(**evaluate | dict(blind_dir='', split='val', max_rows=2, num_beams=1)))
    r = json.loads((see / 'eval_val.json').read_text())
    assert len(r['rows']) == 2 and 'blind_scores' not in r
    assert 'a blind run has encoder=None' in run('eval_caption.py', *flags(**evaluate | dict(blind_dir=see)), fails=True)


# ---- other data, other decoding ------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(llm, encoder, pictures, tmp_path_factory):
    """The folder of a run whose checkpoint `last` was made to say other things than `best`."""
    folder = tmp_path_factory.mktemp('trained')
    knobs = TINY | dict(llm=llm, encoder=encoder, dataset=pictures, out_dir=folder / 'out',
                        max_iters=10, learning_rate=0.1, instruction='Caption:')
    process = start(folder, 'train.py', *flags(**knobs))
    process.join(120)
    assert process.exitcode == 0, (folder / 'stderr').read_text()
    path = folder / 'out/last.safetensors'
    with safe_open(path, 'pt') as f:
        metadata = f.metadata()
        tensors = {name: f.get_tensor(name) for name in f.keys()}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        tensors[name] = torch.randn(tensor.shape, generator=generator)
    save_file(tensors, path, metadata)
    return folder / 'out'


@pytest.fixture
def evaluate(run, trained, tmp_path):
    """evaluate(knob=value, ...) -> the result, of a copy of the run."""
    out_dir = shutil.copytree(trained, tmp_path / 'copy')

    def evaluate(name='test', **knobs):
        knobs = dict(device='cpu', dtype='float32', max_new_tokens=6, num_beams=1) | knobs
        run('eval_caption.py', *flags(out_dir=out_dir, **knobs))
        return json.loads((out_dir / f'eval_{name}.json').read_text())
    return evaluate


def captions_of(result):
    return [row['caption'] for row in result['rows']]


@pytest.fixture
def others(pictures, tmp_path):
    """A file of other captions of the training pictures: a data set that was not trained on."""
    rows = []
    for line in (pictures / 'train.jsonl').read_text().splitlines()[:6]:
        image = str(pictures / json.loads(line)['image'])
        rows.append(json.dumps(dict(image=image, caption='Something else.', split='test')))
    (tmp_path / 'others.jsonl').write_text('\n'.join(rows))
    return tmp_path / 'others.jsonl'


def test_other_data_than_the_trainings_is_evaluated_and_both_are_named(
        evaluate, others, pictures, tmp_path):
    result = evaluate('others_test', dataset=others, instruction='What?')
    assert len(result['rows']) == 6
    assert result['rows'][0]['references'] == ['Something else.']
    assert result['evaluated'] == {
        'dataset': str(others), 'data_dir': 'data/coco', 'instruction': 'What?',
        'answer_prompt': '', 'split': 'test', 'checkpoint': 'best'}
    assert result['trained_with']['dataset'] == str(pictures)
    assert result['trained_with']['instruction'] == 'Caption:'
    assert 'by a model trained on' in (tmp_path / 'stdout').read_text()
    html = (tmp_path / 'copy/eval_others_test.html').read_text()
    assert f'{others}, test split' in html and f'is trained, on {pictures}' in html
    # the training's own instruction, and none at all, are other prompts
    same = evaluate('others_test', dataset=others)
    none = evaluate('others_test', dataset=others, instruction=None)
    assert same['evaluated']['instruction'] == 'Caption:'
    assert none['evaluated']['instruction'] == '{prompt}'
    assert captions_of(same) != captions_of(none)
    assert evaluate()['evaluated']['dataset'] == str(pictures)


def test_a_data_set_of_another_medium_than_the_encoders_is_refused(run, trained, tmp_path):
    (tmp_path / 'a.wav').touch()
    (tmp_path / 'test.jsonl').write_text(json.dumps(dict(audio='a.wav', caption='A bell.')))
    error = run('eval_caption.py', *flags(out_dir=trained, device='cpu', dataset=tmp_path),
                fails=True)
    assert 'audio files' in error and 'takes image files' in error


def test_a_fraction_of_the_split_can_be_evaluated(evaluate):
    assert len(evaluate(max_rows=0.5)['rows']) == 2
    assert len(evaluate(max_rows=3)['rows']) == 3
    assert len(evaluate(max_rows=1)['rows']) == 4


def test_the_checkpoint_that_the_run_says_is_tested(evaluate, tmp_path):
    best, last = evaluate(which='best'), evaluate(which='last')
    assert captions_of(best) != captions_of(last)
    assert evaluate()['evaluated']['checkpoint'] == 'best'
    path = tmp_path / 'copy/config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(test_checkpoint='last')))
    chosen = evaluate()
    assert chosen['evaluated']['checkpoint'] == 'last'
    assert captions_of(chosen) == captions_of(last)
    assert evaluate(which='best')['evaluated']['checkpoint'] == 'best'
    # adapters are published without it
    path.unlink()
    assert evaluate()['evaluated']['checkpoint'] == 'best'


def test_sampling_repeats_with_its_seed_and_differs_with_another(evaluate):
    sampled = dict(do_sample=True, temperature=2.0, top_k=0)
    first, again = evaluate(seed=3, **sampled), evaluate(seed=3, **sampled)
    other = evaluate(seed=4, **sampled)
    assert captions_of(first) == captions_of(again)
    assert captions_of(first) != captions_of(other)
    assert first['knobs']['seed'] == 3 and first['knobs']['temperature'] == 2.0


def test_sampling_from_the_likeliest_token_alone_is_greedy(evaluate):
    greedy = captions_of(evaluate())
    assert captions_of(evaluate(do_sample=True, top_k=1)) == greedy
    assert captions_of(evaluate(do_sample=True, top_p=0.01, top_k=0)) == greedy
    assert captions_of(evaluate(do_sample=True, temperature=5.0, top_k=0)) != greedy


def test_several_captions_of_a_picture_are_listed_and_the_first_is_scored(evaluate, tmp_path):
    beams = evaluate(num_beams=3, num_return_sequences=3, which='last')
    assert captions_of(beams) == captions_of(evaluate(num_beams=3, which='last'))
    sampled = evaluate(do_sample=True, temperature=2.0, num_return_sequences=4)
    for result, several in (beams, 3), (sampled, 4):
        for row in result['rows']:
            assert len(row['generated']) == several and row['generated'][0] == row['caption']
            assert len(set(row['generated'])) > 1
    _, ciders, _ = score_captions([row['references'] for row in sampled['rows']],
                                  captions_of(sampled))
    assert [row['cider'] for row in sampled['rows']] == ciders
    html = Parsed((tmp_path / 'copy/eval_test.html').read_text()).text
    for row in sampled['rows']:
        assert all(text in html for text in row['generated'])


def test_penalties_change_the_captions(evaluate):
    plain = captions_of(evaluate(max_new_tokens=20))
    penalised = captions_of(evaluate(max_new_tokens=20, repetition_penalty=5.0))

    def repeats(texts):
        return sum(len(text) - len(set(text)) for text in texts)
    assert repeats(penalised) < repeats(plain)
    short = captions_of(evaluate(max_new_tokens=20, num_beams=4, length_penalty=-20.0))
    long = captions_of(evaluate(max_new_tokens=20, num_beams=4, length_penalty=20.0))
    assert sum(map(len, short)) < sum(map(len, long))


def test_a_penalty_that_the_language_model_brings_is_not_used(trained):
    """Qwen's generation_config.json has one."""
    model, tokenizer, config = load_checkpoint(trained, 'best', 'cpu', 'float32')
    rows = load_examples(config, 'test')
    options = dict(progress=False, num_beams=2, max_new_tokens=12)
    with torch.no_grad():
        plain = generate_texts(model, tokenizer, config, rows, 4, **options)
        model.llm.generation_config.repetition_penalty = 5.0
        assert generate_texts(model, tokenizer, config, rows, 4, **options) == plain


def test_sampled_beams_are_seeded_too(evaluate):
    sampled = dict(do_sample=True, num_beams=3, temperature=3.0, top_k=0, num_return_sequences=2)
    texts = []
    for seed in (1, 1, 2):
        result = evaluate(seed=seed, **sampled)
        texts.append([row['generated'] for row in result['rows']])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize('script', ['sample.py', 'eval_caption.py', 'eval_vqa.py'])
@pytest.mark.parametrize('wrong, words', [
    (dict(temperature=0, do_sample=True), 'temperature=0.0: expected 0.01 or more'),
    (dict(top_p=0, do_sample=True), 'top_p=0.0: expected 0.01 or more'),
    (dict(top_p=1.5, do_sample=True), 'top_p=1.5: expected 1 or less'),
    (dict(top_k=-1, do_sample=True), 'top_k=-1: expected 0 or more'),
    (dict(repetition_penalty=0), 'repetition_penalty=0.0: expected 0.01 or more'),
    (dict(num_return_sequences=0), 'num_return_sequences=0: expected 1 or more'),
    (dict(num_return_sequences=4), 'num_beams=3 ends with no more than 3'),
    (dict(num_beams=1, num_return_sequences=2), '--do_sample=True --num_beams=1'),
    (dict(temperature=0.7), 'temperature=0.7 is for sampling'),
    (dict(num_beams=1, length_penalty=2.0), 'length_penalty=2.0 compares beams')])
def test_decoding_that_makes_no_sense_is_refused(run, trained, pictures, script, wrong, words):
    if script == 'sample.py':
        wrong = wrong | dict(input=pictures / 'images/0.png')
    assert words in run(script, *flags(out_dir=trained, device='cpu', **wrong), fails=True)


def test_samples_of_a_picture_are_printed_and_written(run, trained, pictures, tmp_path):
    image = str(pictures / 'images/3.png')
    knobs = dict(out_dir=trained, input=image, device='cpu', dtype='float32', do_sample=True,
                 num_beams=1, temperature=2.0, num_return_sequences=3, max_new_tokens=6)
    printed = run('sample.py', *flags(**knobs)).splitlines()
    assert len(printed) == 3 and len(set(printed)) > 1
    run('sample.py', *flags(**knobs, output=tmp_path / 'captions.jsonl'))
    entry = json.loads((tmp_path / 'captions.jsonl').read_text())
    assert printed == [f'{image}: {text}' for text in entry['captions']]
    assert entry['caption'] == entry['captions'][0] and entry['image'] == image
    assert run('sample.py', *flags(**knobs, seed=1)).splitlines() != printed
