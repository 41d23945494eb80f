"""
Exactness: `python tests/parity.py [DIR...]` compares nanoPALM with the numbers the original code gave, one line per case.

Checked, each within 1e-4 relative (|a-b|_max / |b|_max): logits in eval and train mode, loss, the gradient of every trained tensor
and of the encoder's hidden states; the same for a padded batch; greedy and beam-3 ids, which must be identical.
Exit status 1 if any case fails. Without DIR: tests/golden, and ../shared/golden where it exists.
"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nanopalm.wheels  # noqa: F401

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from adapters import Adapter
from model import PALM
from tools.import_checkpoint import Unsupported, depalm_config, epalm_config, our_name

TOLERANCE = 1e-4


def golden_dirs():
    return [d for d in (ROOT / 'tests/golden', ROOT.parent / 'shared/golden') if d.is_dir()]


def cases(dirs):
    found = {}
    for d in map(Path, dirs):
        for path in [d] if (d / 'case.json').exists() else sorted(p.parent for p in d.glob('*/case.json')):
            found.setdefault(path.name, path)
    return list(found.values())


def build(case, tensors, lm):
    """The PALM of a golden case, with the original's weights in it."""
    lm_config = dict(case['lm_config'])
    family = {'LlamaForCausalLM': LlamaConfig, 'OPTForCausalLM': OPTConfig}[lm_config.pop('architecture')]
    llm = AutoModelForCausalLM.from_config(family(**lm_config))
    missing, unexpected = llm.load_state_dict({k.removeprefix('lm.'): v for k, v in lm.items() if k.startswith('lm.')}, strict=False)
    assert not unexpected and set(missing) <= {'lm_head.weight'}, (missing, unexpected)
    llm.tie_weights()
    llm.generation_config.eos_token_id = None                   # only the *_eos cases stop
    original = case['case'].startswith('epalm_original')
    n_layers, d_in = lm_config['num_hidden_layers'], tensors["feats.0"].shape[-1]
    if original:
        cfg, grid = epalm_config(case['config'], n_layers), (4, 4)
    else:
        grid = tuple(case['config']['feat_model']['tokens_grid'])
        cfg = depalm_config(case['config'], grid, n_layers, 6)
    adapter = Adapter(cfg, d_in, grid, llm.config.hidden_size, n_layers, llm.get_input_embeddings().embedding_dim)
    model = PALM(llm, adapter)
    ours = dict(model.named_parameters())
    names = {k.removeprefix('adapter.'): our_name(k.removeprefix('adapter.'), adapter.targets) for k in tensors if k.startswith('adapter.')}
    with torch.no_grad():
        for theirs, name in names.items():
            if name not in ours:
                raise Unsupported(f'parameter {theirs} ({name})')
            ours[name].copy_(tensors['adapter.' + theirs].view_as(ours[name]))
    left = set(model.trained()) - set(names.values())
    assert not left, f'trained here but not there: {left}'
    return model, names


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


def check(path):
    """Returns {quantity: relative error, or 0/1 for ids} of one golden case."""
    torch.manual_seed(0)
    case = json.loads((path / 'case.json').read_text())
    tensors = load_file(path / 'tensors.safetensors')
    lm_dir = (path / case['lm_file']).parent
    if not lm_dir.exists():
        lm_dir = path.parent / ('lm__' + case['lm'])
    model, names = build(case, tensors, load_file(lm_dir / 'tensors.safetensors'))
    original = case['case'].startswith('epalm_original')
    features = torch.stack([tensors[f'feats.{i}'] for i in range(6)], dim=1).requires_grad_()   # (B, 6, 1+N, D)
    if 'rand.selected_patch_ids' in tensors:                    # the original's draw comes from three generators: take it as it fell
        model.adapter.connectors[0][0].draw = lambda n: tensors['rand.selected_patch_ids'].long()
    # the original's OPT honours padding_mode in eval mode alone, its LLaMA never does
    noncausal = not original and case['config']['adapter']['padding_mode'] == 'non-causal' and case['lm'].startswith('opt')
    train_mode = case.get('grad_and_loss_mode', 'train') == 'train'
    errors = {}

    def run(mode, prefix=''):
        model.train(mode)
        model.adapter.cfg.noncausal_prefix = noncausal and not mode
        ids, mask = tensors[prefix + 'input_ids'], tensors[prefix + 'attention_mask']
        return model.logits(ids, None if mask.all() else mask, features=features), mask.bool()

    def loss(mode, prefix=''):
        model.train(mode)
        model.adapter.cfg.noncausal_prefix = noncausal and not mode
        labels, mask = tensors[prefix + 'labels'], tensors[prefix + 'attention_mask']
        mean = model(tensors[prefix + 'input_ids'], labels, None if mask.all() else mask, features=features,
                     label_smoothing=0.0 if original else 2e-3)
        if original:                                            # eP-ALM: the sum over tokens, averaged over the batch, times 0.1
            return mean * (labels[:, 1:] != -100).sum() / len(labels) * case['config']['lm_loss_weight']
        return mean

    for prefix in ('', 'padded.'):
        for mode, key in ((False, 'out.logits'), (True, 'out.logits_train')):
            if prefix + key in tensors:
                ours, valid = run(mode, prefix)
                errors[prefix + key] = relative(ours[valid], tensors[prefix + key][valid])
        for mode, key in ((train_mode, 'out.loss'), (False, 'out.loss_eval')):
            if prefix + key in tensors:
                errors[prefix + key] = relative(loss(mode, prefix), tensors[prefix + key])

    for p in model.parameters():
        p.grad = None
    features.grad = None
    loss(train_mode).backward()
    ours = dict(model.named_parameters())
    largest = max(t.abs().max() for key, t in tensors.items() if key.startswith('grad.'))
    for key in tensors:
        if key.startswith('grad.'):
            p = ours[names[key.removeprefix('grad.')]]
            theirs = tensors[key].view_as(p)
            if theirs.abs().max() < 1e-7 * largest:             # zero but for rounding (softmax ignores a bias on all keys): so must ours be
                errors[key] = (p.grad.abs().max() / (1e-7 * largest)).item() * TOLERANCE
            else:
                errors[key] = relative(p.grad, theirs)
        if key.startswith('grad_feats.'):
            errors[key] = relative(features.grad[:, int(key.split('.')[1])], tensors[key])

    model.train(False)
    model.adapter.cfg.noncausal_prefix = noncausal
    for key, beams, eos in (('gen.greedy', 1, None), ('gen.beam3', 3, None), ('gen.greedy_eos', 1, case['gen_eos_variant_eos_token_id'])):
        if key in tensors:
            new = model.generate(tensors['gen.input_ids'], features=features.detach(), num_beams=beams, max_new_tokens=8,
                                 eos_token_id=eos, pad_token_id=case['lm_config']['pad_token_id'])
            theirs = tensors[key]
            theirs = theirs[:, -8:] if theirs.shape[1] > 8 else theirs
            new = F.pad(new, (0, theirs.shape[1] - new.shape[1]), value=case['lm_config']['pad_token_id'])
            errors[key] = float(not torch.equal(new, theirs))
    return errors


def verdict(path):
    """(status, line) of one case."""
    try:
        errors = check(path)
    except Unsupported as e:
        return 'unsupported', f'{path.name:52} unsupported: {e}'
    def worst(*starts):
        found = {k: v for k, v in errors.items() if k.removeprefix('padded.').startswith(starts)}
        return max(found.values()) if found else float('nan')
    ok = all(e <= TOLERANCE for e in errors.values())
    ids = {k.removeprefix('gen.'): not v for k, v in errors.items() if k.startswith('gen.')}
    line = (f'{path.name:52} logits {worst("out.logits"):.1e}  loss {worst("out.loss"):.1e}  grad {worst("grad"):.1e}  '
            f'ids {" ".join(k if same else k + "!" for k, same in ids.items())}  {"PASS" if ok else "FAIL"}')
    if not ok:
        line += '  (' + ', '.join(f'{k} {v:.1e}' for k, v in errors.items() if not v <= TOLERANCE)[:200] + ')'
    return 'PASS' if ok else 'FAIL', line


@pytest.mark.parametrize('path', cases(golden_dirs()), ids=lambda p: p.name)
def test_parity(path):
    status, line = verdict(path)
    assert status == 'PASS', line


if __name__ == '__main__':
    chosen = cases(sys.argv[1:] or golden_dirs())
    if not chosen:
        sys.exit(f'no golden case (a folder with case.json) in {" ".join(sys.argv[1:]) or "tests/golden"}')
    results = []
    for path in chosen:
        status, line = verdict(path)
        results.append(status)
        print(line, flush=True)
    print(', '.join(f'{results.count(s)} {s}' for s in ('PASS', 'FAIL', 'unsupported')))
    sys.exit('FAIL' in results)
