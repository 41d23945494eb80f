"""
nanopalm/java.py: COCO's tokenizer and METEOR by the real Java, if there is one; what a Java that
fails, or lacks what SPICE needs, says.
"""

import pytest
from conftest import needs_java

from nanopalm import java


def fake_java(folder, monkeypatch, script):
    """Puts a `java` on the PATH that is this shell script."""
    path = folder / 'java'
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:/usr/bin:/bin')


@needs_java
def test_odd_lines_are_one_text_each():
    tokens = {
        'a\nb\r\nc\u2028d\x85e\x0bf': 'a b c d e f',
        '': '',
        ' ': '',
        '|||': '| | |',
        '\u732b': '\u732b',
        '\ud800': '',
        'a': 'a',
    }
    assert java.java_tokenize(list(tokens)) == list(tokens.values())


@pytest.mark.slow
@needs_java
def test_meteor_is_higher_for_the_better_caption():
    references = {0: ['a dog runs on the beach'], 1: ['two cats sleep']}
    good = java.meteor(references, {0: ['a dog runs on a beach'], 1: ['two cats sleep']})
    bad = java.meteor(references, {0: ['a red bus'], 1: ['two cats sleep']})
    assert 0 < bad < good < 1


def test_a_java_that_fails_is_an_error_with_its_message(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'echo "no heap" >&2; exit 1')
    with pytest.raises(OSError, match='(?s)tokenizer.*no heap'):
        java.java_tokenize(['a cat'])
    with pytest.raises(OSError):
        java.meteor({0: ['a cat']}, {0: ['a cat']})


def test_a_java_that_loses_lines_is_an_error(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'echo one')
    with pytest.raises(OSError, match='1 of 2 texts'):
        java.java_tokenize(['one', 'two'])


@pytest.fixture
def no_download(monkeypatch):
    def fail():
        raise OSError('no network')

    monkeypatch.setattr('pycocoevalcap.spice.spice.get_stanford_models', fail)


@pytest.mark.parametrize(
    'version, words',
    [
        ('17.0.15', ['Java 8 to 14', 'this is 17']),
        ('1.8.0_402', ['a download that failed: no network']),
        ('11.0.2', ['a download that failed: no network']),
    ],
)
def test_spice_says_all_that_it_lacks(version, words, no_download, tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, f'echo \'openjdk version "{version}"\' >&2')
    monkeypatch.setattr(java, 'JARS', tmp_path)
    with pytest.raises(OSError) as error:
        java.spice({}, {})
    message = str(error.value)
    by_hand = [
        'stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar',
        'stanford-corenlp-full-2015-12-09.zip',
        str(tmp_path / 'spice/lib'),
    ]
    for word in words + by_hand:
        assert word in message
    assert ('Java 8 to 14' in message) == (version == '17.0.15')
