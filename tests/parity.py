"""
Exactness: `python tests/parity.py [DIR...]` compares nanoPALM with the numbers that the original
code gave, one line per case.

Compared, each within 1e-4 relative (|a-b|_max / |b|_max): logits in eval and train mode; the loss;
the gradient of every trained tensor and of the encoder's hidden states; the same for a padded
batch; and the ids of greedy and beam-3 generation, which must be identical. The exit status is 1 if
any case fails. Without DIR: tests/golden, and ../shared/golden where it exists.
"""

# ruff: noqa: E402 (run as a script, it finds the modules of the repository first)

import functools
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
FAMILIES = dict(LlamaForCausalLM=LlamaConfig, OPTForCausalLM=OPTConfig)
N_NEW_TOKENS = 8


# ---- the golden cases ----------------------------------------------------------------------------


def golden_dirs():
    folders = [ROOT / 'tests/golden', ROOT.parent / 'shared/golden']
    return [folder for folder in folders if folder.is_dir()]


def find_cases(folders):
    """Returns the folders of the cases in these folders, each of which may itself be a case; of two
    cases with one name, the first."""
    cases = {}
    for folder in map(Path, folders):
        if (folder / 'case.json').exists():
            paths = [folder]
        else:
            paths = sorted(path.parent for path in folder.glob('*/case.json'))
        for path in paths:
            cases.setdefault(path.name, path)
    return list(cases.values())


class GoldenCase:
    """A case, and nanoPALM's model with the original's weights in it."""

    def __init__(self, path, fast_paths=True):
        self.case = json.loads((path / 'case.json').read_text())
        self.tensors = load_file(path / 'tensors.safetensors')
        self.is_epalm_original = self.case['case'].startswith('epalm_original')
        self.pad_id = self.case['lm_config']['pad_token_id']
        self.make_model(make_llm(path, self.case), fast_paths)
        # (B, 6, 1+N, D)
        states = [self.tensors[f'feats.{i}'] for i in range(6)]
        self.features = torch.stack(states, dim=1).requires_grad_()

    def make_model(self, llm, fast_paths):
        n_layers = llm.config.num_hidden_layers
        if self.is_epalm_original:
            grid = (4, 4)
            cfg = epalm_config(self.case['config'], n_layers)
        else:
            grid = tuple(self.case['config']['feat_model']['tokens_grid'])
            cfg = depalm_config(self.case['config'], grid, n_layers, 6)
        adapter = Adapter(
            cfg,
            d_in=self.tensors['feats.0'].shape[-1],
            grid=grid,
            d_llm=llm.config.hidden_size,
            n_layers=n_layers,
            d_embed=llm.get_input_embeddings().embedding_dim,
        )
        self.model = PALM(llm, adapter, fast_paths=fast_paths)
        self.copy_weights(adapter.targets)
        if 'rand.selected_patch_ids' in self.tensors:
            # the original's draw comes from three generators: it is taken as it fell
            drawn = self.tensors['rand.selected_patch_ids'].long()
            adapter.connectors[0][0].draw = functools.partial(as_drawn, drawn)

    def copy_weights(self, targets):
        """Copies the original's tensors into the model, and keeps {its name: our name}."""
        ours = dict(self.model.named_parameters())
        self.names = {}
        with torch.no_grad():
            for key, tensor in self.tensors.items():
                if not key.startswith('adapter.'):
                    continue
                theirs = key.removeprefix('adapter.')
                name = our_name(theirs, targets)
                if name not in ours:
                    raise Unsupported(f'parameter {theirs} ({name})')
                ours[name].copy_(tensor.view_as(ours[name]))
                self.names[theirs] = name
        left = set(self.model.trained()) - set(self.names.values())
        assert not left, f'trained here but not there: {left}'

    def set_mode(self, training):
        self.model.train(training)
        noncausal = False
        if not self.is_epalm_original:
            noncausal = self.case['config']['adapter']['padding_mode'] == 'non-causal'
        # the original's OPT honours padding_mode in eval mode alone, its LLaMA never does
        is_opt = self.case['lm'].startswith('opt')
        self.model.adapter.cfg.noncausal_prefix = noncausal and is_opt and not training

    def inputs(self, prefix):
        """Returns (input_ids, attention_mask), a mask that hides nothing as None. prefix: '', or
        'padded.' for the padded batch."""
        mask = self.tensors[prefix + 'attention_mask']
        return self.tensors[prefix + 'input_ids'], None if mask.all() else mask

    def logits(self, training, prefix=''):
        self.set_mode(training)
        ids, mask = self.inputs(prefix)
        return self.model.logits(ids, mask, features=self.features)

    def loss(self, training, prefix=''):
        self.set_mode(training)
        ids, mask = self.inputs(prefix)
        labels = self.tensors[prefix + 'labels']
        smoothing = 0.0 if self.is_epalm_original else 2e-3
        loss = self.model(ids, labels, mask, features=self.features, label_smoothing=smoothing)
        if self.is_epalm_original:
            # the sum over tokens, averaged over the batch, times 0.1
            n_labels = (labels[:, 1:] != -100).sum()
            loss = loss * n_labels / len(labels) * self.case['config']['lm_loss_weight']
        return loss

    def generate(self, num_beams, eos):
        self.set_mode(training=False)
        return self.model.generate(
            self.tensors['gen.input_ids'],
            features=self.features.detach(),
            num_beams=num_beams,
            max_new_tokens=N_NEW_TOKENS,
            eos_token_id=eos,
            pad_token_id=self.pad_id,
        )


def as_drawn(patches, n):
    """Is the draw of R-Rand: these patches, of n."""
    return patches


def make_llm(path, case):
    """Returns the LLM of a case, with the original's weights."""
    folder = (path / case['lm_file']).parent
    if not folder.exists():
        folder = path.parent / f'lm__{case["lm"]}'
    config = dict(case['lm_config'])
    llm = AutoModelForCausalLM.from_config(FAMILIES[config.pop('architecture')](**config))
    weights = {}
    for key, tensor in load_file(folder / 'tensors.safetensors').items():
        if key.startswith('lm.'):
            weights[key.removeprefix('lm.')] = tensor
    missing, unexpected = llm.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {'lm_head.weight'}, missing
    llm.tie_weights()
    # only the *_eos cases stop
    llm.generation_config.eos_token_id = None
    return llm


# ---- the comparison ------------------------------------------------------------------------------


def check(path, fast_paths=True):
    """Returns {quantity: relative error, or 0 or 1 for ids} of one golden case."""
    torch.manual_seed(0)
    golden = GoldenCase(path, fast_paths)
    errors = logit_and_loss_errors(golden)
    errors |= gradient_errors(golden)
    errors |= generation_errors(golden)
    return errors


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


def loss_training(golden):
    """Whether the original's loss and gradients are of train mode."""
    return golden.case.get('grad_and_loss_mode', 'train') == 'train'


def logit_and_loss_errors(golden):
    tensors = golden.tensors
    errors = {}
    for prefix in ('', 'padded.'):
        for training, key in ((False, 'out.logits'), (True, 'out.logits_train')):
            if prefix + key in tensors:
                valid = tensors[prefix + 'attention_mask'].bool()
                ours = golden.logits(training, prefix)
                errors[prefix + key] = relative(ours[valid], tensors[prefix + key][valid])
        for training, key in ((loss_training(golden), 'out.loss'), (False, 'out.loss_eval')):
            if prefix + key in tensors:
                errors[prefix + key] = relative(
                    golden.loss(training, prefix), tensors[prefix + key]
                )
    return errors


def gradient_errors(golden):
    tensors = golden.tensors
    for parameter in golden.model.parameters():
        parameter.grad = None
    golden.features.grad = None
    golden.loss(loss_training(golden)).backward()
    parameters = dict(golden.model.named_parameters())
    theirs = {key: tensor for key, tensor in tensors.items() if key.startswith('grad.')}
    # smaller gradients are zero but for rounding, as softmax ignores a bias of all keys
    zero = 1e-7 * max(tensor.abs().max() for tensor in theirs.values())
    errors = {}
    for key, tensor in theirs.items():
        ours = parameters[golden.names[key.removeprefix('grad.')]].grad
        if tensor.abs().max() < zero:
            # and so must ours be
            errors[key] = (ours.abs().max() / zero).item() * TOLERANCE
        else:
            errors[key] = relative(ours, tensor.view_as(ours))
    for key, tensor in tensors.items():
        if key.startswith('grad_feats.'):
            source = int(key.split('.')[1])
            errors[key] = relative(golden.features.grad[:, source], tensor)
    return errors


def generation_errors(golden):
    """Returns {generation: 0 for identical ids, else 1}."""
    eos = golden.case['gen_eos_variant_eos_token_id']
    errors = {}
    for key, num_beams, eos_id in (
        ('gen.greedy', 1, None),
        ('gen.beam3', 3, None),
        ('gen.greedy_eos', 1, eos),
    ):
        if key in golden.tensors:
            theirs = golden.tensors[key][:, -N_NEW_TOKENS:]
            new = golden.generate(num_beams, eos_id)
            new = F.pad(new, (0, theirs.shape[1] - new.shape[1]), value=golden.pad_id)
            errors[key] = float(not torch.equal(new, theirs))
    return errors


# ---- the verdict ---------------------------------------------------------------------------------


def verdict(path, fast_paths=True):
    """Returns (status, line) of one case."""
    try:
        errors = check(path, fast_paths)
    except Unsupported as error:
        return 'unsupported', f'{path.name:52} unsupported: {error}'
    status = 'PASS' if all(error <= TOLERANCE for error in errors.values()) else 'FAIL'
    line = (
        f'{path.name:52} logits {worst(errors, "out.logits"):.1e}  '
        f'loss {worst(errors, "out.loss"):.1e}  grad {worst(errors, "grad"):.1e}  '
        f'ids {generations(errors)}  {status}'
    )
    if status == 'FAIL':
        line += f'  ({failures(errors)})'
    return status, line


def worst(errors, start):
    """Returns the largest error of the quantities whose name begins so, NaN if there are none."""
    found = [e for key, e in errors.items() if key.removeprefix('padded.').startswith(start)]
    return max(found) if found else float('nan')


def generations(errors):
    """Returns the names of the generations, with ! behind those whose ids differ."""
    names = []
    for key, error in errors.items():
        if key.startswith('gen.'):
            names.append(key.removeprefix('gen.') + ('!' if error else ''))
    return ' '.join(names)


def failures(errors):
    wrong = [f'{key} {error:.1e}' for key, error in errors.items() if not error <= TOLERANCE]
    return ', '.join(wrong)[:200]


def case_name(path):
    return path.name


@pytest.mark.parametrize(
    'fast_paths',
    [
        pytest.param(True, id='fast'),
        pytest.param(False, id='plain', marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize('path', find_cases(golden_dirs()), ids=case_name)
def test_a_golden_case_gives_the_numbers_of_the_original(path, fast_paths):
    status, line = verdict(path, fast_paths)
    assert status == 'PASS', line


def main(folders):
    paths = find_cases(folders or golden_dirs())
    if not paths:
        where = ' '.join(folders) or 'tests/golden'
        sys.exit(f'no golden case (a folder with case.json) in {where}')
    results = []
    for path in paths:
        status, line = verdict(path)
        results.append(status)
        print(line, flush=True)
    counts = [f'{results.count(status)} {status}' for status in ('PASS', 'FAIL', 'unsupported')]
    print(', '.join(counts))
    sys.exit('FAIL' in results)


if __name__ == '__main__':
    main(sys.argv[1:])
