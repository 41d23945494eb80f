"""`prepare.py import`: an original's checkpoint becomes ours, and says what the original said."""
import json

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from conftest import ROOT
from model import load_checkpoint

GOLDEN = ROOT / 'tests/golden'


@pytest.fixture(scope='module', params=['qp_inner__llama', 'limber_all__opt', 'epalm_original_noleak_inj2_shared_prompt__opt'])
def original(request, llm, tmp_path_factory):
    """(case.json, its tensors, folder with model_checkpoint.pt, config.yaml and the LLM) of a golden case."""
    folder, case = tmp_path_factory.mktemp(request.param), json.loads((GOLDEN / request.param / 'case.json').read_text())
    tensors, lm = load_file(GOLDEN / request.param / 'tensors.safetensors'), load_file(GOLDEN / f'lm__{case["lm"]}' / 'tensors.safetensors')
    settings = dict(case['lm_config'])
    architecture = settings.pop('architecture')
    model = getattr(transformers, architecture)(getattr(transformers, architecture.replace('ForCausalLM', 'Config'))(**settings))
    model.load_state_dict({k.removeprefix('lm.'): v for k, v in lm.items()}, strict=False)
    model.save_pretrained(folder / 'llm')
    transformers.AutoTokenizer.from_pretrained(llm).save_pretrained(folder / 'llm')
    state = {k.removeprefix('adapter.'): v for k, v in tensors.items() if k.startswith('adapter.')}
    torch.save({'model': state} if case['case'].startswith('epalm') else state, folder / 'checkpoint.pt')
    (folder / 'config.yaml').write_text(yaml.safe_dump(case['config']))
    return case, tensors, folder


def test_imported_checkpoint_is_the_original(original, encoder, run, tmp_path):
    case, tensors, folder = original
    said = run('prepare.py', 'import', f'--from={folder}/checkpoint.pt', f'--reference_config={folder}/config.yaml', f'--out={tmp_path}/imported',
               f'--llm={folder}/llm', f'--encoder={encoder}')
    assert ('causal' in said) == case['case'].startswith('epalm')   # its fault, which is not reproduced
    model, _, config = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    features = torch.stack([tensors[f'feats.{i}'] for i in range(6)], dim=1)
    logits = model.logits(tensors['input_ids'], features=features)
    assert (logits - tensors['out.logits']).abs().max() < 1e-4 * tensors['out.logits'].abs().max()
    assert config['llm'] == f'{folder}/llm' and config['encoder'] == str(encoder)


def test_what_does_not_fit_is_named(original, encoder, run, tmp_path):
    case, _, folder = original
    state = torch.load(folder / 'checkpoint.pt')
    (state['model'] if 'model' in state else state)['a.stranger'] = torch.zeros(2, 3)
    torch.save(state, tmp_path / 'more.pt')
    models = [f'--llm={folder}/llm', f'--encoder={encoder}', f'--out={tmp_path}/imported']
    yaml_file = f'--reference_config={folder}/config.yaml'
    assert 'a.stranger (2, 3)' in run('prepare.py', 'import', f'--from={tmp_path}/more.pt', yaml_file, *models, fails=True)
    assert '--from=' in run('prepare.py', 'import', *models, fails=True)
    assert 'nothing.pt' in run('prepare.py', 'import', f'--from={tmp_path}/nothing.pt', yaml_file, *models, fails=True)
    assert not (tmp_path / 'imported').exists()


def test_an_option_without_equivalent_is_named(original, encoder, run, tmp_path):
    case, _, folder = original
    config = json.loads(json.dumps(case['config']))
    if case['case'].startswith('epalm'):
        config['connector_type'], option = 'transformer', 'connector_type=transformer'
    else:
        config['adapter']['gating'], option = True, 'adapter.gating=True'
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    assert option in run('prepare.py', 'import', f'--from={folder}/checkpoint.pt', f'--reference_config={tmp_path}/config.yaml', f'--llm={folder}/llm',
                         f'--encoder={encoder}', f'--out={tmp_path}/imported', fails=True)
