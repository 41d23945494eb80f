"""
Checks of a copy of the repository to which all diffs of docs/4-extend.md were applied. test_docs.py
runs it there: python extended_repository.py LLM ENCODER PICTURES FOLDER
"""

import json
import runpy
import sys
from pathlib import Path

import nanopalm.wheels  # noqa: F401

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from adapters import CONNECTORS, Adapter, AdapterConfig
from llms import FAMILIES
from model import PALM
from naive import naive_logits
from nanopalm.datasets import load_examples


def check_r_linear_has_two_layers():
    cfg = AdapterConfig(connector='r_linear', adapter_dim=16)
    connector = CONNECTORS['r_linear'](cfg, 8, 24, (4, 4))
    assert connector(torch.randn(2, 17, 8)).shape == (2, 5, 24)
    names = [name for name, _ in connector.named_parameters()]
    assert '1.pool.layer.2.weight' in names, names


def check_connector():
    cfg = AdapterConfig(connector='r_mean', adapter_dim=16)
    connector = CONNECTORS['r_mean'](cfg, 8, 24, (4, 4))
    assert connector(torch.randn(2, 17, 8)).shape == (2, 5, 24)


def check_data_set(folder):
    images = []
    for number, split in enumerate(('train', 'val', 'test')):
        sentences = [dict(raw=f' Number {number}. ')]
        images.append(
            dict(filename=f'{number}.jpg', split=split, sentences=sentences, imgid=number)
        )
        (folder / 'images').mkdir(exist_ok=True)
        (folder / f'images/{number}.jpg').touch()
    (folder / 'dataset_flickr30k.json').write_text(json.dumps(dict(images=images)))
    config = dict(dataset='flickr30k', data_dir=str(folder), bad_rows='error', train_rows=0, seed=0)
    expected = dict(image=str(folder / 'images/1.jpg'), caption=['Number 1.'], id=1)
    assert load_examples(config, 'val') == [expected]
    assert Path('config/data/flickr30k.py').is_file()


def check_llm_family():
    """Prefixes and the reference implementation give the same logits."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4)
    llm = Olmo2ForCausalLM(Olmo2Config(vocab_size=50, pad_token_id=0, **sizes))
    assert 'olmo2' in FAMILIES
    cfg = AdapterConfig(connector='linear', target_layers=(0, 2), token_norm=True)
    model = PALM(llm, Adapter(cfg, d_in=24, grid=(4, 4), d_llm=32, n_layers=4)).eval()
    features = torch.randn(2, 1, 17, 24)
    text = torch.randint(3, 50, (2, 7))
    with torch.no_grad():
        ours = model.logits(text, features=features)
        assert torch.allclose(ours, naive_logits(model, features, text), atol=1e-5)


def check_training(llm, encoder, pictures, out_dir):
    """Adafactor, one more number in the log."""
    sys.argv = [
        'train.py',
        f'--llm={llm}',
        f'--encoder={encoder}',
        f'--dataset={pictures}',
        f'--out_dir={out_dir}',
        '--connector=r_mean',
        '--adapter_dim=32',
        '--batch_size=4',
        '--max_iters=1',
        '--eval_rows=4',
        '--n_samples=0',
        '--num_workers=0',
        '--device=cpu',
    ]
    runpy.run_path('train.py', run_name='__main__')
    lines = (out_dir / 'metrics.jsonl').read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert any(entry.get('weight_norm', 0) > 0 for entry in logged)
    state = torch.load(out_dir / 'resume.pt', weights_only=True)['optimizers'][0]
    # Adafactor has no second moment of matrices, only of their rows and columns
    assert any('row_var' in moments for moments in state['state'].values())


if __name__ == '__main__':
    llm, encoder, pictures, folder = sys.argv[1:]
    check_r_linear_has_two_layers()
    check_connector()
    check_data_set(Path(folder))
    check_llm_family()
    check_training(llm, encoder, pictures, Path(folder) / 'run')
