"""`prepare.py import`: an original's checkpoint becomes ours, and says what the original said."""
import copy
import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from conftest import ROOT
from safetensors.torch import load_file

import encoders
from adapters import Adapter, AdapterConfig
from configurator import run_config_file, script_scope
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


# ---- c-attn of DePALM ----------------------------------------------------------------------------

def c_attn_config(config, **transformer):
    """A DePALM `config` tree of another mechanism -> the one that its `mod=cross_attn` makes."""
    config = copy.deepcopy(config)
    adapter = config['adapter']
    adapter.update(name='cross_attention', gating=True, token_norm=True)
    adapter['cross_attn'].update(llm_mlp_layers=2, residual=False)
    adapter['transformer'].update(n_layers=1, n_tokens=None, embed_queries=False, **transformer)
    adapter['source']['keep_features']['n_elements'] = 'all'
    return config


def c_attn_shapes(d_in, d, d_llm, n_prompt=None):
    """{DePALM's parameter name: shape} of a c-attn with a transformer of one layer."""
    shapes = {}

    def linear(name, n_in, n_out):
        shapes[f'{name}.weight'] = n_out, n_in
        shapes[f'{name}.bias'] = n_out,
    connector = 'base_module.adapter_connectors.0'
    block = f'{connector}.1.blocks.0'
    linear(f'{connector}.0', d_in, d)
    shapes[f'{block}.self_attn.in_proj_weight'] = 3 * d, d
    shapes[f'{block}.self_attn.in_proj_bias'] = 3 * d,
    linear(f'{block}.self_attn.out_proj', d, d)
    linear(f'{block}.linear1', d, d)
    linear(f'{block}.linear2', d, d)
    for norm in ('norm1', 'norm2'):
        shapes[f'{block}.{norm}.weight'] = shapes[f'{block}.{norm}.bias'] = d,
    linear(f'{connector}.2', d, d)
    cross = 'base_module.cross_attention'
    shapes[f'{cross}.gating_value'] = ()
    linear(f'{cross}.llm_res_mlp.layers.0', d_llm, d)
    linear(f'{cross}.llm_res_mlp.layers.2', d, d)
    shapes[f'{cross}.llm_res_mlp.norm_layer.weight'] = d,
    for name in ('llm_q_proj', 'k_proj', 'v_proj'):
        linear(f'{cross}.{name}', d, d)
    shapes[f'{cross}.norm.weight'] = d,
    linear(f'{cross}.out_proj', d, d_llm)
    if n_prompt:
        shapes['prompt_tokens'] = 1, n_prompt, d_llm
    return {f'model_text.base_module.model.{key}': shape for key, shape in shapes.items()}


def test_c_attn_is_the_originals_where_its_reshaping_mixes_nothing():
    """For one token of text, the original's code is causal. These are the numbers it gave, in
    float64 (its RMSNorm in float32), for weights sin(k^2 + i), the i-th of the sorted names."""
    d_in, d, d_llm, heads = 6, 8, 10, 2
    expected = [0.136787, 1.180361, 1.416843, -0.649703, -0.489962,
                1.759327, -1.462038, -0.406896, -0.072389, -0.627265,
                0.699048, 0.684062, 1.423098, 0.747919, -0.818569,
                1.037552, -1.905119, -0.32839, 0.576811, -1.167164]
    cfg = AdapterConfig(connector='c_attn', adapter_dim=d, mapper_layers=1, mapper_heads=heads,
                        n_targets=2, last_target=1, n_prompt=0)
    adapter = Adapter(cfg, d_in, (2, 2), d_llm, 2).double().eval()
    parameters = {f'adapter.{name}': p for name, p in adapter.named_parameters()}
    with torch.no_grad():
        for i, (key, shape) in enumerate(sorted(c_attn_shapes(d_in, d, d_llm).items())):
            k = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64)
            p = parameters.pop(our_name(key, [0, 1]))
            p.copy_(torch.sin(k ** 2 + i).view(p.shape))
    assert not parameters
    features = torch.cos(torch.arange(2 * 5 * d_in, dtype=torch.float64) ** 2).view(2, 5, d_in)
    text = torch.cos(1.3 * torch.arange(2 * d_llm, dtype=torch.float64)).view(2, 1, d_llm)
    pairs = adapter.keys_values(adapter([features]))
    for layer in (0, 1):
        read = adapter.cross_attention(layer)(text, *pairs[layer])
        assert (read.flatten() - torch.tensor(expected)).abs().max() < 2e-6
    assert (read - text).abs().max() > 1


def plain_c_attn(state, x, features, heads):
    """Textbook cross-attention by the original's tensors: text x (B, T, d_llm) reads what its
    connector makes of features (B, 1+N, d_in)."""
    start = 'model_text.base_module.model.base_module.'

    def linear(name, y):
        return F.linear(y, state[f'{start}{name}.weight'], state[f'{start}{name}.bias'])

    def rms(name, y):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-4).sqrt() * state[f'{start}{name}.weight']
    z = linear('adapter_connectors.0.0', features)
    d, block_name = z.shape[-1], f'{start}adapter_connectors.0.1.blocks.0.'
    block = torch.nn.TransformerEncoderLayer(d, heads, d, activation='gelu', layer_norm_eps=1e-4,
                                             batch_first=True).eval()
    block.load_state_dict({key.removeprefix(block_name): t for key, t in state.items()
                           if key.startswith(block_name)})
    z = linear('adapter_connectors.0.2', block(z))
    hidden = F.gelu(linear('cross_attention.llm_res_mlp.layers.0', x))
    hidden = linear('cross_attention.llm_res_mlp.layers.2', hidden)
    q = linear('cross_attention.llm_q_proj', rms('cross_attention.llm_res_mlp.norm_layer', hidden))
    k, v = linear('cross_attention.k_proj', z), linear('cross_attention.v_proj', z)
    attended = []
    for q, k, v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        weights = (q @ k.transpose(1, 2) / (d / heads) ** 0.5).softmax(-1)
        attended.append(weights @ v)
    y = linear('cross_attention.out_proj', rms('cross_attention.norm', torch.cat(attended, -1)))
    return x + state[f'{start}cross_attention.gating_value'].tanh() * y


@pytest.fixture(scope='module')
def c_attn(llm, tmp_path_factory):
    """(config, tensors of the text and the encoder's states, state, folder with checkpoint.pt,
    config.yaml and the LLM), c-attn in place of a golden case's mechanism."""
    case = json.loads((GOLDEN / 'qp_inner__llama/case.json').read_text())
    folder, config = tmp_path_factory.mktemp('c_attn'), c_attn_config(case['config'])
    settings = case['lm_config'] | dict(architectures=['LlamaForCausalLM'])
    settings.pop('architecture')
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    weights = load_file(GOLDEN / 'lm__llama/tensors.safetensors')
    model.load_state_dict({k.removeprefix('lm.'): v for k, v in weights.items()}, strict=False)
    model.save_pretrained(folder / 'llm')
    transformers.AutoTokenizer.from_pretrained(llm).save_pretrained(folder / 'llm')
    g = torch.Generator().manual_seed(0)
    state = {key: 0.3 * torch.randn(shape, generator=g)
             for key, shape in c_attn_shapes(48, 32, 64, n_prompt=4).items()}
    for key in state:
        if key.endswith('gating_value'):
            state[key] += 1
    # the original's checkpoints hold the buffers of the frozen encoder, too
    state['feat_model.base_module.embeddings.position_ids'] = torch.arange(17)[None]
    torch.save(state, folder / 'checkpoint.pt')
    (folder / 'config.yaml').write_text(yaml.safe_dump(config))
    tensors = load_file(GOLDEN / 'qp_inner__llama/tensors.safetensors')
    return config, tensors, state, folder


def test_an_imported_c_attn_is_textbook_attention_by_the_originals_tensors(c_attn, encoder, run,
                                                                         tmp_path):
    config, tensors, state, folder = c_attn
    remarks = run('prepare.py', 'import', f'--from={folder}/checkpoint.pt',
                  f'--reference_config={folder}/config.yaml', f'--out={tmp_path}/imported',
                  f'--llm={folder}/llm', f'--encoder={encoder}')
    assert 'c_attn' in remarks and 'causal' in remarks
    model, _, knobs = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    assert (knobs['connector'], knobs['source_layers'], knobs['n_targets']) == ('c_attn', 2, 4)
    ids, features = tensors['input_ids'], torch.stack([tensors[f'feats.{i}'] for i in (4, 5)], 1)
    logits = model.logits(ids, features=features)

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder / 'llm', dtype=torch.float32)

    def read(layer, args):
        states = features[:, 0 if layer in plain.model.layers[2:4] else 1]
        return plain_c_attn(state, args[0], states, heads=4), *args[1:]
    for layer in plain.model.layers[2:6]:                   # the source of the first two is state 4
        layer.register_forward_pre_hook(read)
    prompt = state['model_text.base_module.model.prompt_tokens'].expand(len(ids), -1, -1)
    embeddings = torch.cat([prompt, plain.get_input_embeddings()(ids)], dim=1)
    expected = plain(inputs_embeds=embeddings).logits[:, 4:]
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (logits - plain(ids).logits).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize('option, value', [
    ('gating', False), ('gating', 'scheduled'), ('token_norm', False),
    ('cross_attn.llm_mlp_layers', 0), ('cross_attn.residual', True), ('transformer.n_tokens', 32), ('transformer.n_layers', 0)])
def test_an_option_of_c_attn_without_equivalent_is_named(c_attn, option, value):
    config = copy.deepcopy(c_attn[0])
    *parents, key = option.split('.')
    node = config['adapter'][parents[0]] if parents else config['adapter']
    node[key] = value
    with pytest.raises(Unsupported, match=f'adapter.{option}={value}'):
        depalm_config(config, (4, 4), None, None)


def test_config_c_attn_is_what_depalms_yaml_stands_for(c_attn):
    config = c_attn_config(c_attn[0], num_heads=8, dropout=0.1)
    config['adapter'] |= dict(embed_dim=1024)
    config['adapter']['source'] |= dict(to_idx=-1, n_elements=4)
    config['adapter']['target'] |= dict(to_idx=-4, n_elements=12)
    config['finetune']['prompt_tuning']['new_tokens'] = 16
    theirs = asdict(depalm_config(config, (16, 16), 32, 24))
    knobs = asdict(AdapterConfig())
    ours = knobs | run_config_file(ROOT / 'config/mechanism/c_attn.py', dict(knobs))
    differs = {name for name in knobs if ours[name] != theirs[name]}
    assert differs == {'keep_to_end', 'llm_train_mode'}             # of a prefix; and of OPT alone


# ---- what a yaml says of encoder, text and LLM ---------------------------------------------------

# config/feat_model/*.yaml of DePALM, but for MAViL and the disabled one
DEPALM_ENCODERS = [
    'MIT/ast-finetuned-audioset-10-10-0.4593', 'CLAP', 'laion/CLIP-ViT-B-16-laion2B-s34B-b88K',
    'openai/clip-vit-base-patch16', 'laion/CLIP-ViT-L-14-laion2B-s32B-b82K',
    'openai/clip-vit-large-patch14', 'dinov2_vitb14', 'dinov2_vitg14', 'dinov2_vitl14',
    'dinov2_vits14', 'eva02_large_patch14_clip_224.merged2b', 'TimeSFormer',
    'TimeSFormer_time_average', 'timm/vit_base_patch16_224.augreg_in1k',
    'timm/vit_base_patch16_224.augreg_in21k', 'timm/vit_base_patch16_224.augreg2_in21k_ft_in1k',
    'timm/vit_large_patch16_224.augreg_in21k_ft_in1k']


@pytest.mark.parametrize('name', DEPALM_ENCODERS)
def test_every_encoder_of_depalm_is_one_of_ours(name):
    ours = depalm_encoder(dict(feat_model=dict(name=name), dataset=dict(num_frames=16)))['encoder']
    known = encoders.TIMM | encoders.HUB
    assert ours in known
    if '/' in name and name.split('/')[0] in ('timm', 'MIT'):
        assert known[ours][0] in (name, name.removeprefix('timm/'))


def test_no_encoder_is_mapped_that_depalm_does_not_have():
    assert sorted(ENCODERS) == sorted(DEPALM_ENCODERS)


@pytest.mark.parametrize('average, tokens', [(False, 'all'), (True, 'mean')])
def test_a_timesformer_is_imported_with_its_frames(average, tokens):
    feat_model = dict(name='TimeSFormer_time_average' if average else 'TimeSFormer',
                      average_time=average)
    knobs = depalm_encoder(dict(feat_model=feat_model, dataset=dict(num_frames=16)))
    assert knobs == dict(encoder='timesformer_k400', video_frames=16, video_tokens=tokens)


def test_an_encoder_that_cannot_be_had_is_named():
    with pytest.raises(ValueError, match='MAViL.*--encoder='):
        depalm_encoder(dict(feat_model=dict(name='MAViL')))
    with pytest.raises(Unsupported, match='feat_model.name=disabled'):
        depalm_encoder(dict(feat_model=dict(name='disabled')))


@pytest.mark.parametrize('dataset, special, instruction, answer_prompt', [
    (dict(name='COCO_karpathy', insert_instruction=False, instructions=['', 'A']), None,
     '{prompt}', ''),
    (dict(name='COCO_karpathy', insert_instruction=False, instructions=['', 'A']), 'Answer: ',
     '{prompt}', 'Answer: '),
    (dict(name='COCO_karpathy', insert_instruction=2, instructions=['', 'A', 'An image of ']),
     'Answer: ', 'An image of  {prompt}', ''),
    (dict(name='audiocaps', insert_instruction='first', instructions=['Sound:']), None,
     'Sound: {prompt}', ''),
    (dict(name='VQA', insert_instruction=1, instructions=['{prompt}', '{prompt}\n\nAnswer:\n']),
     'Answer: ', '{prompt}\n\nAnswer:', ''),
    (dict(name='OKVQA', insert_instruction=0, instructions=['{prompt}\n\nAnswer:\n']), None,
     '{prompt}\n\nAnswer:', ''),
    (dict(name='text_vqa', insert_instruction=False, instructions=[]), 'Answer: ', '{prompt}', ''),
    (dict(name='VQA', insert_instruction='default', instructions=['Q: {prompt}']), None,
     '{prompt}', '')])
def test_insert_instruction_is_our_instruction_and_answer_prompt(dataset, special, instruction,
                                                                 answer_prompt):
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
    # the interpolation stays in the yaml that the original writes
    config['llm'] |= dict(name='facebook/opt-6.7b', special_answer_token='</a>',
                          special_answer_prompt='Answer: ', model=dict(name='${..name}'))
    config['feat_model']['name'] = 'openai/clip-vit-large-patch14'
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    names = {}

    def tiny(knobs, device, dtype):
        names.update(llm=knobs['llm'], encoder=knobs['encoder'])
        assert device == 'meta' and dtype == 'float32'
        knobs = knobs | dict(llm=str(folder / 'llm'), encoder=None)
        model, tokenizer = build(knobs, 'cpu', dtype)
        cfg = AdapterConfig(**{k: knobs[k] for k in asdict(AdapterConfig())})
        model.adapter = Adapter(cfg, 48, (4, 4), 64, 8)
        return model, tokenizer
    monkeypatch.setattr('nanopalm.checkpoint.build', tiny)
    knobs = {k: v for k, v in script_scope(ROOT / 'train.py').items() if type(v) in (bool, int, float, str)}
    knobs |= dict(llm=None, encoder=None)
    remarks = import_checkpoint(knobs, folder / 'checkpoint.pt', tmp_path / 'config.yaml',
                                str(tmp_path / 'imported'))
    assert names == dict(llm='facebook/opt-6.7b', encoder='clip_l')
    assert (knobs['instruction'], knobs['answer_prompt']) == ('Q: {prompt} A:', '')
    assert knobs['prompt_end'] == '</a>' and knobs['target_space'] is False
    assert not any('</a>' in remark for remark in remarks)


def test_a_yaml_or_a_checkpoint_of_another_kind_is_named(c_attn, encoder, run, tmp_path):
    folder = c_attn[3]
    models = [f'--llm={folder}/llm', f'--encoder={encoder}', f'--out={tmp_path}/imported']
    for text, message in (('a: 1', 'experiment_config.yaml'), ('[', 'yaml'), ('a', 'key: value')):
        (tmp_path / 'other.yaml').write_text(text)
        error = run('prepare.py', 'import', f'--from={folder}/checkpoint.pt',
                    f'--reference_config={tmp_path}/other.yaml', *models, fails=True)
        assert 'other.yaml' in error and message in error
    (tmp_path / 'other.pt').write_text('no tensors')
    error = run('prepare.py', 'import', f'--from={tmp_path}/other.pt', *models, fails=True)
    assert 'other.pt' in error and 'torch.save' in error


def test_bias_tuning_of_the_encoder_is_imported(c_attn, encoder, run, tmp_path):
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
    run('prepare.py', 'import', f'--from={tmp_path}/checkpoint.pt',
        f'--reference_config={tmp_path}/config.yaml', f'--out={tmp_path}/imported',
        f'--llm={folder}/llm', f'--encoder={encoder}')
    model, _, knobs = load_checkpoint(tmp_path / 'imported', device='cpu', dtype='float32')
    assert knobs['encoder_bias_tuning']
    tuner = model.encoder.model.blocks[1].mlp.fc1.bias_tuner
    assert (tuner.scale == 3).all() and (tuner.bias == 5).all()
