"""`prepare.py import`: what a configuration of the papers' own code ("the original") stands for,
and that an imported checkpoint computes what the original computed."""

import copy
import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from conftest import ROOT, configured
from safetensors.torch import load_file

import encoders
from adapters import Adapter, AdapterConfig
from configurator import run_config_file
from nanopalm.checkpoint import build, load_checkpoint
from tools.import_checkpoint import (
    ENCODERS,
    Unsupported,
    depalm_config,
    depalm_encoder,
    depalm_text,
    import_checkpoint,
    our_name,
)

GOLDEN = ROOT / 'tests/golden'
CASES = ['qp_inner__llama', 'limber_all__opt', 'epalm_original_noleak_inj2_shared_prompt__opt']


def read_case(name):
    """Returns the settings of a golden case, and the tensors that the original gave."""
    case = json.loads((GOLDEN / name / 'case.json').read_text())
    return case, load_file(GOLDEN / name / 'tensors.safetensors')


def write_llm(folder, case, tokenizer):
    """Writes the LLM of a golden case, with a tokenizer, as a folder of transformers."""
    settings = dict(case['lm_config'])
    architecture = settings.pop('architecture')
    config_class = getattr(transformers, architecture.replace('ForCausalLM', 'Config'))
    model = getattr(transformers, architecture)(config_class(**settings))
    weights = load_file(GOLDEN / f'lm__{case["lm"]}' / 'tensors.safetensors')
    weights = {key.removeprefix('lm.'): weight for key, weight in weights.items()}
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


@pytest.fixture(scope='module', params=CASES)
def original(request, llm, tmp_path_factory):
    """The settings and tensors of a golden case, and a folder with its checkpoint.pt, config.yaml
    and LLM."""
    folder = tmp_path_factory.mktemp(request.param)
    case, tensors = read_case(request.param)
    write_llm(folder / 'llm', case, llm)
    state = {}
    for key, tensor in tensors.items():
        if key.startswith('adapter.'):
            state[key.removeprefix('adapter.')] = tensor
    torch.save(dict(model=state) if is_epalm(case) else state, folder / 'checkpoint.pt')
    (folder / 'config.yaml').write_text(yaml.safe_dump(case['config']))
    return case, tensors, folder


def is_epalm(case):
    return case['case'].startswith('epalm')


@pytest.fixture
def import_run(run, encoder, tmp_path):
    """import_run(folder, checkpoint=None, config=None) imports a checkpoint into
    tmp_path/imported; the checkpoint and the yaml are those in the folder unless given."""

    def import_run(folder, checkpoint=None, config=None, fails=False):
        return run(
            'prepare.py',
            'import',
            f'--from={checkpoint or folder / "checkpoint.pt"}',
            f'--reference_config={config or folder / "config.yaml"}',
            f'--out={tmp_path}/imported',
            f'--llm={folder}/llm',
            f'--encoder={encoder}',
            fails=fails,
        )

    return import_run


# ---- prepare.py import ---------------------------------------------------------------------------


def test_an_imported_checkpoint_has_the_originals_logits(original, encoder, import_run, tmp_path):
    case, tensors, folder = original
    output = import_run(folder)
    # eP-ALM's own fault is not reproduced, and the user is told
    assert ('causal' in output) == is_epalm(case)
    model, _, config = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    features = torch.stack([tensors[f'feats.{i}'] for i in range(6)], dim=1)
    logits = model.logits(tensors['input_ids'], features=features)
    expected = tensors['out.logits']
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert config['llm'] == f'{folder}/llm'
    assert config['encoder'] == str(encoder)


def test_a_tensor_without_equivalent_is_named_and_nothing_is_written(
    original, import_run, tmp_path
):
    case, _, folder = original
    state = torch.load(folder / 'checkpoint.pt')
    tensors = state['model'] if is_epalm(case) else state
    tensors['a.stranger'] = torch.zeros(2, 3)
    torch.save(state, tmp_path / 'more.pt')
    assert 'a.stranger (2, 3)' in import_run(folder, tmp_path / 'more.pt', fails=True)
    assert not (tmp_path / 'imported').exists()


def test_a_missing_argument_or_checkpoint_is_named(original, import_run, run, tmp_path):
    _, _, folder = original
    assert '--from=' in run('prepare.py', 'import', f'--out={tmp_path}/imported', fails=True)
    assert 'nothing.pt' in import_run(folder, tmp_path / 'nothing.pt', fails=True)
    assert not (tmp_path / 'imported').exists()


def test_an_option_without_equivalent_is_named(original, import_run, tmp_path):
    case, _, folder = original
    config = copy.deepcopy(case['config'])
    if is_epalm(case):
        config['connector_type'] = 'transformer'
        option = 'connector_type=transformer'
    else:
        config['adapter']['gating'] = True
        option = 'adapter.gating=True'
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    assert option in import_run(folder, config=tmp_path / 'config.yaml', fails=True)


# ---- c-attn of DePALM ----------------------------------------------------------------------------


def c_attn_config(config, **transformer):
    """Returns the `config` tree that DePALM's `mod=cross_attn` makes of another mechanism's."""
    config = copy.deepcopy(config)
    adapter = config['adapter']
    adapter.update(name='cross_attention', gating=True, token_norm=True)
    adapter['cross_attn'].update(llm_mlp_layers=2, residual=False)
    adapter['transformer'].update(n_layers=1, n_tokens=None, embed_queries=False, **transformer)
    adapter['source']['keep_features']['n_elements'] = 'all'
    return config


def c_attn_shapes(d_in, d, d_llm, n_prompt=None):
    """Returns {DePALM's parameter name: shape} of a c-attn with a transformer of one layer."""
    shapes = {}

    def linear(name, n_in, n_out):
        shapes[f'{name}.weight'] = n_out, n_in
        shapes[f'{name}.bias'] = (n_out,)

    connector = 'base_module.adapter_connectors.0'
    block = f'{connector}.1.blocks.0'
    linear(f'{connector}.0', d_in, d)
    shapes[f'{block}.self_attn.in_proj_weight'] = 3 * d, d
    shapes[f'{block}.self_attn.in_proj_bias'] = (3 * d,)
    linear(f'{block}.self_attn.out_proj', d, d)
    linear(f'{block}.linear1', d, d)
    linear(f'{block}.linear2', d, d)
    for norm in ('norm1', 'norm2'):
        shapes[f'{block}.{norm}.weight'] = (d,)
        shapes[f'{block}.{norm}.bias'] = (d,)
    linear(f'{connector}.2', d, d)
    cross = 'base_module.cross_attention'
    shapes[f'{cross}.gating_value'] = ()
    linear(f'{cross}.llm_res_mlp.layers.0', d_llm, d)
    linear(f'{cross}.llm_res_mlp.layers.2', d, d)
    shapes[f'{cross}.llm_res_mlp.norm_layer.weight'] = (d,)
    for name in ('llm_q_proj', 'k_proj', 'v_proj'):
        linear(f'{cross}.{name}', d, d)
    shapes[f'{cross}.norm.weight'] = (d,)
    linear(f'{cross}.out_proj', d, d_llm)
    if n_prompt:
        shapes['prompt_tokens'] = 1, n_prompt, d_llm
    return {f'model_text.base_module.model.{key}': shape for key, shape in shapes.items()}


# What the original's c-attn gave for two inputs with one token of text each, for which it is
# causal, in float64 (its RMSNorm in float32). The weights are sin(k^2 + i) in the i-th of the
# sorted names.
C_ATTN_OUTPUT = [
    [0.136787, 1.180361, 1.416843, -0.649703, -0.489962],
    [1.759327, -1.462038, -0.406896, -0.072389, -0.627265],
    [0.699048, 0.684062, 1.423098, 0.747919, -0.818569],
    [1.037552, -1.905119, -0.32839, 0.576811, -1.167164],
]


def c_attn_outputs(adapter, features, text):
    """Returns what each layer's cross-attention makes of the text (B, T, d_llm)."""
    inputs = adapter.cross_attention_inputs(adapter([features]))
    return [cross(text, keys, values) for cross, keys, values in inputs.values()]


def test_c_attn_has_the_originals_outputs_where_its_reshaping_mixes_nothing():
    d_in, d, d_llm, heads = 6, 8, 10, 2
    expected = torch.tensor(C_ATTN_OUTPUT).view(2, 1, d_llm)
    cfg = AdapterConfig(
        connector='c_attn',
        adapter_dim=d,
        mapper_layers=1,
        mapper_heads=heads,
        n_targets=2,
        last_target=1,
        n_prompt=0,
    )
    adapter = Adapter(cfg, d_in, (2, 2), d_llm, 2).double().eval()
    parameters = {f'adapter.{name}': p for name, p in adapter.named_parameters()}
    shapes = c_attn_shapes(d_in, d, d_llm)
    with torch.no_grad():
        for i, key in enumerate(sorted(shapes)):
            k = torch.arange(1, torch.Size(shapes[key]).numel() + 1, dtype=torch.float64)
            parameter = parameters.pop(our_name(key, [0, 1]))
            parameter.copy_(torch.sin(k**2 + i).view(parameter.shape))
    # each of our parameters is one of the original's
    assert not parameters
    features = torch.cos(torch.arange(2 * 5 * d_in, dtype=torch.float64) ** 2).view(2, 5, d_in)
    text = torch.cos(1.3 * torch.arange(2 * d_llm, dtype=torch.float64)).view(2, 1, d_llm)
    outputs = c_attn_outputs(adapter, features, text)
    assert len(outputs) == 2
    for output in outputs:
        assert (output - expected).abs().max() < 2e-6
        assert (output - text).abs().max() > 1


def textbook_c_attn(state, x, features, heads):
    """Returns textbook cross-attention by the original's tensors: text x (B, T, d_llm) reads what
    its connector makes of features (B, 1+N, d_in)."""
    start = 'model_text.base_module.model.base_module.'

    def linear(name, y):
        return F.linear(y, state[f'{start}{name}.weight'], state[f'{start}{name}.bias'])

    def rms_norm(name, y):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-4).sqrt() * state[f'{start}{name}.weight']

    z = linear('adapter_connectors.0.0', features)
    d = z.shape[-1]
    block = torch.nn.TransformerEncoderLayer(
        d, heads, d, activation='gelu', layer_norm_eps=1e-4, batch_first=True
    ).eval()
    block_name = f'{start}adapter_connectors.0.1.blocks.0.'
    weights = {}
    for key, tensor in state.items():
        if key.startswith(block_name):
            weights[key.removeprefix(block_name)] = tensor
    block.load_state_dict(weights)
    z = linear('adapter_connectors.0.2', block(z))
    hidden = F.gelu(linear('cross_attention.llm_res_mlp.layers.0', x))
    hidden = linear('cross_attention.llm_res_mlp.layers.2', hidden)
    hidden = rms_norm('cross_attention.llm_res_mlp.norm_layer', hidden)
    queries = linear('cross_attention.llm_q_proj', hidden).chunk(heads, -1)
    keys = linear('cross_attention.k_proj', z).chunk(heads, -1)
    values = linear('cross_attention.v_proj', z).chunk(heads, -1)
    attended = []
    for q, k, v in zip(queries, keys, values):
        attention = (q @ k.transpose(1, 2) / (d / heads) ** 0.5).softmax(-1)
        attended.append(attention @ v)
    y = rms_norm('cross_attention.norm', torch.cat(attended, -1))
    gate = state[f'{start}cross_attention.gating_value'].tanh()
    return x + gate * linear('cross_attention.out_proj', y)


@pytest.fixture(scope='module')
def c_attn(llm, tmp_path_factory):
    """The config of a c-attn in place of a golden case's mechanism, the case's text and hidden
    states, the random tensors of a checkpoint, and a folder with checkpoint.pt, config.yaml and
    the LLM."""
    case, tensors = read_case('qp_inner__llama')
    folder = tmp_path_factory.mktemp('c_attn')
    config = c_attn_config(case['config'])
    write_llm(folder / 'llm', case, llm)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in c_attn_shapes(48, 32, 64, n_prompt=4).items():
        state[key] = 0.3 * torch.randn(shape, generator=generator)
        if key.endswith('gating_value'):
            # an open gate
            state[key] += 1
    # the original's checkpoints hold the buffers of the frozen encoder, too
    state['feat_model.base_module.embeddings.position_ids'] = torch.arange(17)[None]
    torch.save(state, folder / 'checkpoint.pt')
    (folder / 'config.yaml').write_text(yaml.safe_dump(config))
    return config, tensors, state, folder


def test_an_imported_c_attn_is_textbook_attention_by_the_originals_tensors(
    c_attn, import_run, tmp_path
):
    _, tensors, state, folder = c_attn
    remarks = import_run(folder)
    assert 'c_attn' in remarks
    assert 'causal' in remarks
    model, _, config = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    assert config['connector'] == 'c_attn'
    assert config['source_layers'] == 2
    assert config['n_targets'] == 4
    input_ids = tensors['input_ids']
    features = torch.stack([tensors['feats.4'], tensors['feats.5']], dim=1)
    logits = model.logits(input_ids, features=features)

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder / 'llm', dtype=torch.float32)
    without_images = plain(input_ids).logits

    def read_images(source):
        def hook(layer, args):
            return textbook_c_attn(state, args[0], features[:, source], heads=4), *args[1:]

        return hook

    # the first two target layers read state 4, the others state 5
    for layer, source in ((2, 0), (3, 0), (4, 1), (5, 1)):
        plain.model.layers[layer].register_forward_pre_hook(read_images(source))
    prompt = state['model_text.base_module.model.prompt_tokens'].expand(len(input_ids), -1, -1)
    embeddings = torch.cat([prompt, plain.get_input_embeddings()(input_ids)], dim=1)
    expected = plain(inputs_embeds=embeddings).logits[:, 4:]
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (logits - without_images).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize(
    'option, value',
    [
        ('gating', False),
        ('gating', 'scheduled'),
        ('token_norm', False),
        ('cross_attn.llm_mlp_layers', 0),
        ('cross_attn.residual', True),
        ('transformer.n_tokens', 32),
        ('transformer.n_layers', 0),
    ],
)
def test_an_option_of_c_attn_without_equivalent_is_named(c_attn, option, value):
    config = copy.deepcopy(c_attn[0])
    *parents, key = option.split('.')
    node = config['adapter']
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(Unsupported, match=f'adapter.{option}={value}'):
        depalm_config(config, (4, 4), None, None)


def test_our_config_file_of_c_attn_is_what_depalms_yaml_stands_for(c_attn):
    config = c_attn_config(c_attn[0], num_heads=8, dropout=0.1)
    config['adapter'] |= dict(embed_dim=1024)
    config['adapter']['source'] |= dict(to_idx=-1, n_elements=4)
    config['adapter']['target'] |= dict(to_idx=-4, n_elements=12)
    config['finetune']['prompt_tuning']['new_tokens'] = 16
    theirs = asdict(depalm_config(config, (16, 16), 32, 24))
    defaults = asdict(AdapterConfig())
    ours = defaults | run_config_file(ROOT / 'config/mechanism/c_attn.py', dict(defaults))
    differences = {name for name in defaults if ours[name] != theirs[name]}
    # of no consequence: the one is for a prefix, the other for OPT alone
    assert differences == {'keep_to_end', 'llm_train_mode'}


# ---- encoder, text and LLM of a yaml -------------------------------------------------------------

# the names in config/feat_model/*.yaml of DePALM, without MAViL and the disabled one
DEPALM_ENCODERS = [
    'MIT/ast-finetuned-audioset-10-10-0.4593',
    'CLAP',
    'laion/CLIP-ViT-B-16-laion2B-s34B-b88K',
    'openai/clip-vit-base-patch16',
    'laion/CLIP-ViT-L-14-laion2B-s32B-b82K',
    'openai/clip-vit-large-patch14',
    'dinov2_vitb14',
    'dinov2_vitg14',
    'dinov2_vitl14',
    'dinov2_vits14',
    'eva02_large_patch14_clip_224.merged2b',
    'TimeSFormer',
    'TimeSFormer_time_average',
    'timm/vit_base_patch16_224.augreg_in1k',
    'timm/vit_base_patch16_224.augreg_in21k',
    'timm/vit_base_patch16_224.augreg2_in21k_ft_in1k',
    'timm/vit_large_patch16_224.augreg_in21k_ft_in1k',
]


@pytest.mark.parametrize('name', DEPALM_ENCODERS)
def test_every_encoder_of_depalm_is_one_of_ours(name):
    ours = depalm_encoder(dict(feat_model=dict(name=name), dataset=dict(num_frames=16)))['encoder']
    assert ours in encoders.ENCODERS
    if '/' in name and name.split('/')[0] in ('timm', 'MIT'):
        assert encoders.ENCODERS[ours].id in (name, name.removeprefix('timm/'))


def test_no_encoder_is_mapped_that_depalm_does_not_have():
    assert sorted(ENCODERS) == sorted(DEPALM_ENCODERS)


@pytest.mark.parametrize('average, tokens', [(False, 'all'), (True, 'mean')])
def test_a_timesformer_is_imported_with_its_frames(average, tokens):
    name = 'TimeSFormer_time_average' if average else 'TimeSFormer'
    feat_model = dict(name=name, average_time=average)
    hyperparameters = depalm_encoder(dict(feat_model=feat_model, dataset=dict(num_frames=16)))
    assert hyperparameters == dict(encoder='timesformer_k400', video_frames=16, video_tokens=tokens)


def test_an_encoder_without_published_weights_is_named():
    with pytest.raises(ValueError, match='MAViL.*--encoder='):
        depalm_encoder(dict(feat_model=dict(name='MAViL')))
    with pytest.raises(Unsupported, match='feat_model.name=disabled'):
        depalm_encoder(dict(feat_model=dict(name='disabled')))


@pytest.mark.parametrize(
    'dataset, special, instruction, answer_prompt',
    [
        (
            dict(name='COCO_karpathy', insert_instruction=False, instructions=['', 'A']),
            None,
            '{prompt}',
            '',
        ),
        (
            dict(name='COCO_karpathy', insert_instruction=False, instructions=['', 'A']),
            'Answer: ',
            '{prompt}',
            'Answer: ',
        ),
        (
            dict(
                name='COCO_karpathy', insert_instruction=2, instructions=['', 'A', 'An image of ']
            ),
            'Answer: ',
            'An image of  {prompt}',
            '',
        ),
        (
            dict(name='audiocaps', insert_instruction='first', instructions=['Sound:']),
            None,
            'Sound: {prompt}',
            '',
        ),
        (
            dict(
                name='VQA', insert_instruction=1, instructions=['{prompt}', '{prompt}\n\nAnswer:\n']
            ),
            'Answer: ',
            '{prompt}\n\nAnswer:',
            '',
        ),
        (
            dict(name='OKVQA', insert_instruction=0, instructions=['{prompt}\n\nAnswer:\n']),
            None,
            '{prompt}\n\nAnswer:',
            '',
        ),
        (
            dict(name='text_vqa', insert_instruction=False, instructions=[]),
            'Answer: ',
            '{prompt}',
            '',
        ),
        (
            dict(name='VQA', insert_instruction='default', instructions=['Q: {prompt}']),
            None,
            '{prompt}',
            '',
        ),
    ],
)
def test_insert_instruction_is_our_instruction_and_answer_prompt(
    dataset, special, instruction, answer_prompt
):
    config = dict(dataset=dataset, llm=dict(special_answer_prompt=special))
    assert depalm_text(config) == dict(instruction=instruction, answer_prompt=answer_prompt)


def test_a_random_instruction_is_named():
    dataset = dict(name='VQA', insert_instruction='random', instructions=['a', 'b'])
    with pytest.raises(Unsupported, match='dataset.insert_instruction=random'):
        depalm_text(dict(dataset=dataset, llm={}))


def test_an_import_takes_encoder_llm_and_prompt_from_the_yaml(c_attn, monkeypatch, tmp_path):
    config, _, _, folder = c_attn
    config = copy.deepcopy(config)
    config['dataset'] = dict(name='VQA', insert_instruction=0, instructions=['Q: {prompt} A:'])
    config['llm'] |= dict(
        name='facebook/opt-6.7b',
        special_answer_token='</a>',
        special_answer_prompt='Answer: ',
        # the interpolation stays in the yaml that the original writes
        model=dict(name='${..name}'),
    )
    config['feat_model']['name'] = 'openai/clip-vit-large-patch14'
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    names = {}

    def build_small(config, device, dtype):
        """Takes the place of `build`, which would need weights of gigabytes."""
        names.update(llm=config['llm'], encoder=config['encoder'])
        assert device == 'meta'
        assert dtype == 'float32'
        config = config | dict(llm=str(folder / 'llm'), encoder=None)
        model, tokenizer = build(config, 'cpu', dtype)
        cfg = AdapterConfig(**{name: config[name] for name in asdict(AdapterConfig())})
        model.adapter = Adapter(cfg, 48, (4, 4), 64, 8)
        return model, tokenizer

    monkeypatch.setattr('nanopalm.checkpoint.build', build_small)
    hyperparameters = configured() | dict(llm=None, encoder=None)
    remarks = import_checkpoint(
        hyperparameters,
        folder / 'checkpoint.pt',
        tmp_path / 'config.yaml',
        str(tmp_path / 'imported'),
    )
    assert names == dict(llm='facebook/opt-6.7b', encoder='clip_l')
    assert hyperparameters['instruction'] == 'Q: {prompt} A:'
    assert hyperparameters['answer_prompt'] == ''
    assert hyperparameters['prompt_end'] == '</a>'
    assert hyperparameters['target_space'] is False
    assert not any('</a>' in remark for remark in remarks)


@pytest.mark.parametrize(
    'text, message', [('a: 1', 'experiment_config.yaml'), ('[', 'yaml'), ('a', 'key: value')]
)
def test_a_yaml_of_another_kind_is_named(text, message, c_attn, import_run, tmp_path):
    (tmp_path / 'other.yaml').write_text(text)
    error = import_run(c_attn[3], config=tmp_path / 'other.yaml', fails=True)
    assert 'other.yaml' in error
    assert message in error


def test_a_run_is_not_overwritten_by_an_import(c_attn, import_run, tmp_path):
    path = tmp_path / 'imported/last.safetensors'
    path.parent.mkdir()
    path.touch()
    error = import_run(c_attn[3], fails=True)
    assert 'imported holds a run (last.safetensors): give another --out' in error
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_of_another_kind_is_named(c_attn, import_run, tmp_path):
    (tmp_path / 'other.pt').write_text('no tensors')
    error = import_run(c_attn[3], checkpoint=tmp_path / 'other.pt', fails=True)
    assert 'other.pt' in error
    assert 'torch.save' in error


def test_bias_tuning_of_the_encoder_is_imported(c_attn, import_run, tmp_path):
    config, _, state, folder = c_attn
    config = copy.deepcopy(config)
    config['finetune']['feat_model']['bias_tuning']['enable'] = True
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    widths = {'attn.qkv': 144, 'attn.proj': 48, 'mlp.fc1': 192, 'mlp.fc2': 48}
    state = dict(state)
    for i in (0, 1):
        for layer, width in widths.items():
            key = f'feat_model.base_module.blocks.{i}.base_module.{layer}.bias_tuner'
            state[f'{key}.scaling_param'] = torch.full((width,), 2.0 + i)
            state[f'{key}.bias_param'] = torch.full((width,), 4.0 + i)
    torch.save(state, tmp_path / 'checkpoint.pt')
    import_run(folder, tmp_path / 'checkpoint.pt', tmp_path / 'config.yaml')
    model, _, config = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    assert config['encoder_bias_tuning']
    tuner = model.encoder.model.blocks[1].mlp.fc1.bias_tuner
    assert (tuner.scale == 3).all()
    assert (tuner.bias == 5).all()
