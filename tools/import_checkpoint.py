"""
The originals' configurations and checkpoints in nanoPALM's terms: which knobs a DePALM `config`
tree or an eP-ALM `config.yaml` stands for, and which of our parameters each of their keys is. Used
by `prepare.py import` and tests/parity.py.
"""
import os
import pickle
import re

from adapters import AdapterConfig

CONNECTOR = {'QPMapper': 'qpmapper', 'Q_former': 'qformer'}
RESAMPLER = dict(avg_pool='r_avgpool', max_pool='r_maxpool', conv='r_conv', linear='r_linear',
                 qpmapper='r_qpmapper', rand_any_patch='r_rand')


class Unsupported(Exception):
    """`key=value` of an original configuration that nanoPALM has no equivalent for."""


# ---- DePALM's configuration ----------------------------------------------------------------------

def depalm_config(config, grid, n_layers, n_sources):
    """The `config` tree of a DePALM run -> AdapterConfig. Raises Unsupported(key=value) for what it
    does not know, KeyError for what every such tree has."""
    check_depalm(config)
    a, tuning = config['adapter'], config['finetune']
    if a['name'] == 'cross_attention':
        knobs = cross_attention_knobs(config)
    else:
        knobs = prefix_knobs(config)
    source, target, prompt = a['source'], a['target'], tuning['prompt_tuning']
    n_sources_read = source['n_elements'] or 1
    n_connectors = 1 if a['merge_layer_features'] else n_sources_read
    if a['sharing']['share_connections']:
        n_connectors = a['sharing']['n_connections'] or 1
    last_target = target['to_idx'] if target['from_idx'] is None else target['from_idx']
    encoder_tuning = tuning.get('feat_model', dict(bias_tuning=dict(enable=False)))
    return AdapterConfig(
        **knobs,
        adapter_dim=a['embed_dim'] if isinstance(a['embed_dim'], int) else 0,
        activation=a['activation'] or 'none',
        out_layers=a['mlp']['n_layers'],
        norm=a['norm_layer'].split('_')[0],
        source_layers=n_sources_read,
        merge_sources=a['merge_layer_features'],
        n_connectors=n_connectors,
        n_targets=target['n_elements'] or 1,
        last_target=last_target,
        target_stride=target['stride'] or 1,
        keep_to_end=a['keep_inserted_tokens_until_end'],
        n_prompt=prompt['new_tokens'] if prompt['enable'] else 0,
        token_init_std=1.0,
        llm_train_mode=True,
        llm_bias_tuning=tuning['text_model']['bias_tuning']['enable'],
        llm_norm_tuning=tuning['text_model']['unfreeze_norm'],
        encoder_bias_tuning=encoder_tuning['bias_tuning']['enable'],
        encoder_norm_tuning=encoder_tuning.get('unfreeze_norm', False))


def only(node, prefix, **expected):
    """Raises Unsupported for a key of the node that has none of the values expected of it."""
    for key, values in expected.items():
        if key in node and node[key] not in (values if isinstance(values, tuple) else (values,)):
            raise Unsupported(f'{prefix}{key}={node[key]}')


def check_depalm(config):
    """Raises Unsupported for an option of which every mechanism here has one value alone."""
    a, finetune = config['adapter'], config['finetune']
    only(a, 'adapter.', name=('prefix_tokens_inner_layers', 'cross_attention'), insert_at=0,
         mlp_scale=1, activation=('gelu', None, 'none'), norm_layer=('rms_norm', 'layer_norm'),
         padding_mode=('causal', 'non-causal'))
    only(a['mlp'], 'adapter.mlp.', bias=True, flatten=False, dropout=(0, 0.0))
    only(a['transformer'], 'adapter.transformer.', mode=tuple(CONNECTOR), bias=True,
         activation_before_mlp=False, causal=False, keep_cls_token=False, pos_encoding=None)
    only(a['source'], 'adapter.source.', to_idx=(-1, None), from_idx=None, stride=(None, 1))
    only(a['source']['keep_features'], 'adapter.source.keep_features.', from_idx=0, to_idx=None,
         stride=(None, 1), n_elements=(None, 'all', 1))
    only(a['target'], 'adapter.target.', from_idx=(None, 0))
    only(finetune['prompt_tuning'], 'finetune.prompt_tuning.', insert_at=0, full_model=False)
    only(finetune, 'finetune.', remove_in_proj=False, train_only_first_proj=False,
         also_train_prompt=False, also_train_end_proj=False, also_train_end_proj_bias=False)
    for model in ('text_model', 'feat_model'):
        tuning = finetune.get(model, {}).get('bias_tuning', dict(enable=False))
        if tuning['enable']:
            only(tuning, f'finetune.{model}.bias_tuning.', bias=True, scaling=True)


def prefix_knobs(config):
    """The knobs of a connector whose tokens are a prefix."""
    a, resampler = config['adapter'], config.get('resampler') or {}
    transformer, bias, kind = a['transformer'], a['bias_tuning'], resampler.get('type')
    only(a, 'adapter.', gating=False)
    only(resampler, 'resampler.', type=(None, *RESAMPLER), normalize=True)
    only(resampler.get('mlp', {}), 'resampler.mlp.', n_layers=0)
    only(resampler.get('qpmapper', {}), 'resampler.qpmapper.', bias=True,
         activation_before_mlp=False)
    if bias['enable']:
        only(bias, 'adapter.bias_tuning.', bias=True, scaling=True)
    if kind and transformer['n_layers']:
        raise Unsupported(f'resampler.type={kind} with '
                          f'adapter.transformer.n_layers={transformer["n_layers"]}')
    connector = CONNECTOR[transformer['mode']] if transformer['n_layers'] else 'linear'
    mapper = resampler['qpmapper'] if kind == 'qpmapper' else transformer
    cls_alone = a['source']['keep_features']['n_elements'] == 1
    return dict(
        connector=RESAMPLER[kind] if kind else connector,
        n_queries=mapper['n_tokens'],
        mapper_layers=mapper['n_layers'],
        mapper_heads=mapper['num_heads'],
        mapper_dropout=mapper['dropout'],
        learned_queries=transformer['embed_queries'],
        query_per_target=transformer['query_per_layer'],
        reduction=resampler.get('reduction_fact', 4),
        drop_cls=resampler.get('drop_cls', False),
        duplicate_cls=resampler.get('duplicate_cls', 1),
        source_tokens='cls' if cls_alone else 'all',
        token_norm=a['token_norm'],
        token_bias=bias['enable'],
        token_bias_per_token=bias['enable'] and not bias['share_on_tokens'])


def cross_attention_knobs(config):
    """The knobs of c-attn. `adapter.bias_tuning` is not: there the original ignores it."""
    a = config['adapter']
    only(a, 'adapter.', gating=True, token_norm=True)
    only(a['cross_attn'], 'adapter.cross_attn.', llm_mlp_layers=2, vis_mlp_layers=0,
         out_mlp_layers=0, residual=False)
    only(a['transformer'], 'adapter.transformer.', mode='QPMapper', n_tokens=None,
         embed_queries=False)
    only(a['sharing'], 'adapter.sharing.', share_connections=True, n_connections=1)
    only(config.get('resampler') or {}, 'resampler.', type=None)
    if a['transformer']['n_layers'] < 1:
        raise Unsupported(f'adapter.transformer.n_layers={a["transformer"]["n_layers"]}')
    return dict(connector='c_attn', mapper_layers=a['transformer']['n_layers'],
                mapper_heads=a['transformer']['num_heads'],
                mapper_dropout=a['transformer']['dropout'])


# the data sets of DePALM that ask a question; the others are captioned
QUESTIONS = ('VQA', 'OKVQA', 'AOKVQA', 'text_vqa')


def depalm_text(config):
    """{'instruction': .., 'answer_prompt': ..} of train.py that make a DePALM run's prompts."""
    dataset = config.get('dataset') or {}
    mode, instructions = dataset.get('insert_instruction', False), dataset.get('instructions')
    if mode in (None, 'no', 'default') or mode is False or not instructions:
        instruction = ''
    elif mode == 'first':
        instruction = instructions[0]
    elif type(mode) is int and mode < len(instructions):
        instruction = instructions[mode]
    else:
        raise Unsupported(f'dataset.insert_instruction={mode}')
    if '{prompt}' not in instruction:
        instruction += ' {prompt}'
    # so does the original, which leaves no line break at the end of an instruction
    instruction = instruction.strip()
    answer_prompt = ''
    # the original's stands only where the prompt would be empty
    if instruction == '{prompt}' and dataset.get('name') not in QUESTIONS:
        answer_prompt = config['llm'].get('special_answer_prompt') or ''
    return dict(instruction=instruction, answer_prompt=answer_prompt)


# ---- eP-ALM's configuration ----------------------------------------------------------------------

def epalm_config(config, n_layers):
    """eP-ALM's own settings -> AdapterConfig. Raises Unsupported(key=value) for what it does not
    know."""
    first, end = config['start_layer_idx'], config['end_layer_idx']
    n = config['injected_hidden_states']
    if config.get('connector_type', 'linear') != 'linear':
        raise Unsupported(f'connector_type={config["connector_type"]}')
    if (end - first) % n:
        raise Unsupported(f'injected_hidden_states={n} over layers {first}..{end - 1}')
    return AdapterConfig(
        connector='linear',
        source_layers=n,
        source_tokens='cls',
        n_connectors=1 if config.get('shared_connector') else n,
        n_targets=end - first,
        last_target=end - 1,
        keep_to_end=False,
        n_prompt=config['prompt_len'] if config['prompt_tuning'] else 0,
        prompt_mlp=config.get('mlp', False),
        prompt_positions=False,
        token_init_std=1.0,
        llm_train_mode=True)


def epalm_text(config):
    """The knobs of train.py that make an eP-ALM run's texts: questions end with a question mark of
    its own and an added token, captions have no prompt."""
    token = config.get('special_answer_token')
    return dict(instruction='{prompt}?' if token else '{prompt}', answer_prompt='',
                prompt_end=token or '', target_space=False)


# our name of each of the originals' keys, without `.base_module`: the first pattern that matches
CROSS = 'adapter.cross_attentions.0'
RULES = [
    (r'.*\.cross_attention\.llm_res_mlp\.layers\.(\d)\.(.*)', rf'{CROSS}.query_mlp.\1.\2'),
    (r'.*\.cross_attention\.llm_res_mlp\.norm_layer\.(.*)', rf'{CROSS}.query_mlp.3.\1'),
    (r'.*\.cross_attention\.(?:llm_)?(q|k|v|out)_proj\.(.*)', rf'{CROSS}.\1.\2'),
    (r'.*\.cross_attention\.norm\.(.*)', rf'{CROSS}.norm.\1'),
    (r'.*\.cross_attention\.gating_value', rf'{CROSS}.gate'),
    (r'.*\.prompt_tokens', r'adapter.prompt'),
    (r'.*\.adapter_connectors\.(\d+)\.(\d+)\.(.*)', r'adapter.connectors.\1.\2.\3'),
    (r'.*\.layers\.(\d+)\.adapter_norm_layer\.(.*)', r'adapter.token_norms.<\1>.\2'),
    (r'.*\.layers\.(\d+)\.adapter_bias_tuning\.(.*)', r'adapter.token_biases.<\1>.\2'),
    (r'model_text\.(.*)', r'llm.\1'),
    (r'feat_model\.(.*)', r'encoder.model.\1'),
    # eP-ALM from here
    (r'connector\.(\d+)\.(.*)', r'adapter.connectors.\1.1.\2'),
    (r'prompt_module\.prefix_embedding\.0\.weight', r'adapter.prompt'),
    (r'prompt_module\.prefix_embedding\.1\.(.*)', r'adapter.prompt_mlp.0.\1'),
    (r'prompt_module\.prefix_embedding\.3\.(.*)', r'adapter.prompt_mlp.2.\1'),
]
PARTS = [('scaling_param', 'scale'), ('bias_param', 'bias'), ('query_tokens', 'queries'),
         ('.pooling.weight', '.pool.layer.weight'), ('.pooling.bias', '.pool.layer.bias'),
         ('.pooling.', '.pool.'), ('norm_layer', 'norm')]


def our_name(key, targets):
    """An original's parameter name -> ours, or None. targets: the layers tokens are given at."""
    key = key.replace('.base_module', '')
    for pattern, ours in RULES:
        match = re.fullmatch(pattern, key)
        if match:
            break
    else:
        return None
    name = match.expand(ours)
    # <layer> -> its place among the targets
    layer = re.search(r'<(\d+)>', name)
    if layer:
        name = name.replace(layer[0], str(targets.index(int(layer[1]))))
    for theirs, our in PARTS:
        name = name.replace(theirs, our)
    return name


# ---- `python prepare.py import` ------------------------------------------------------------------

# the names of DePALM's yaml -> where the same weights are still to be had
LLMS = {
    'luodian/llama-7b-hf': 'huggyllama/llama-7b',
    'alpaca-7b': 'chavinlo/alpaca-native',
    'meta-llama/llama-2-7b-hf': 'meta-llama/Llama-2-7b-hf',
    'meta-llama/llama-2-7b-chat-hf': 'meta-llama/Llama-2-7b-chat-hf',
    'lmsys/vicuna-7b-v1.5': 'lmsys/vicuna-7b-v1.5',
    'facebook/opt-6.7b': 'facebook/opt-6.7b',
}
# the names of DePALM's yaml -> the short names of encoders.py
ENCODERS = {
    'eva02_large_patch14_clip_224.merged2b': 'eva_clip_l',
    'openai/clip-vit-base-patch16': 'clip_b',
    'openai/clip-vit-large-patch14': 'clip_l',
    'laion/CLIP-ViT-B-16-laion2B-s34B-b88K': 'laion_clip_b',
    'laion/CLIP-ViT-L-14-laion2B-s32B-b82K': 'laion_clip_l',
    'dinov2_vits14': 'dinov2_s',
    'dinov2_vitb14': 'dinov2_b',
    'dinov2_vitl14': 'dinov2_l',
    'dinov2_vitg14': 'dinov2_g',
    'timm/vit_base_patch16_224.augreg_in1k': 'vit_b_in1k',
    'timm/vit_base_patch16_224.augreg_in21k': 'vit_b_in21k',
    'timm/vit_base_patch16_224.augreg2_in21k_ft_in1k': 'vit_b_in21k_ft',
    'timm/vit_large_patch16_224.augreg_in21k_ft_in1k': 'vit_l_in21k',
    'MIT/ast-finetuned-audioset-10-10-0.4593': 'ast',
    'CLAP': 'clap',
    'TimeSFormer': 'timesformer_k400',
    'TimeSFormer_time_average': 'timesformer_k400',
}
# of a frozen encoder, the original's checkpoints hold what is no parameter
BUFFERS = (r'.*\.(position_ids|running_mean|running_var|num_batches_tracked|attn_mask'
           r'|relative_position_index)')


def import_checkpoint(config, checkpoint, reference_config, out):
    """A DePALM `model_checkpoint_*.pt` or an eP-ALM `checkpoint_best.pth` -> out/best.safetensors,
    which samples and evaluates.

    config: train.py's knobs, of which the adapter's and those of the text are replaced by what the
    original's yaml (`experiment_config.yaml`, eP-ALM's `config.yaml`) stands for. Returns what
    there is to say about it. Raises ValueError for a file of another kind and for a key that has no
    equivalent, Unsupported for such an option.
    """
    from nanopalm.checkpoint import build, save_adapter
    state, original = read_original(checkpoint, reference_config)
    knobs, remarks = {}, []
    if any(k.startswith(('connector.', 'prompt_module.')) for k in state):
        knobs = vars(epalm_config({**epalm_settings(state), **(original or {})}, None))
        if original:
            knobs |= epalm_text(original)
        remarks.append('eP-ALM lets the text read a visual token that has seen the answer, from '
                       'the last injection to the top; here it is causal')
    elif original:
        try:
            knobs = depalm_knobs(original, config)
        except (KeyError, TypeError) as e:
            raise ValueError(f'{reference_config}: expected the experiment_config.yaml of a DePALM '
                             f'run ({type(e).__name__}: {e})') from e
        remarks += depalm_remarks(knobs, original)
    config |= knobs
    model, _ = build(config, 'meta', 'float32')
    tensors, problems = rename(state, model, config)
    if problems:
        source = f'of {reference_config}' if reference_config else 'given (no --reference_config)'
        raise ValueError('\n  '.join([f'{checkpoint} does not fit the knobs {source}', *problems]))
    os.makedirs(out, exist_ok=True)
    path = f'{out}/best.safetensors'
    save_adapter(path, tensors, config, imported_from=os.path.basename(checkpoint))
    size = sum(t.numel() for t in tensors.values())
    return remarks + [f'{len(tensors)} tensors, {size:,} parameters: {path}']


def read_original(checkpoint, reference_config):
    """({key: tensor}, the yaml's tree or None). Raises ValueError for files of another kind."""
    import torch
    import yaml
    try:
        state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise ValueError(f'{checkpoint}: expected tensors that torch.save wrote ({e})') from e
    for key in ('model', 'state_dict', 'model_state_dict'):
        if isinstance(state.get(key), dict):
            state = state[key]
    tensors = {}
    for key, value in state.items():
        if torch.is_tensor(value) and not key.endswith('rotary_emb.inv_freq'):
            tensors[key.removeprefix('module.')] = value
    if not reference_config:
        return tensors, None
    try:
        with open(reference_config, encoding='utf-8') as f:
            original = yaml.safe_load(f)
    except yaml.YAMLError as e:
        raise ValueError(f'{reference_config}: expected a yaml ({e})') from e
    if not isinstance(original, dict):
        raise ValueError(f'{reference_config}: expected the settings of a run, as key: value')
    return tensors, original


def epalm_settings(state):
    """What an eP-ALM checkpoint tells of its own settings; its code's defaults for the rest."""
    prompt = state.get('prompt_module.prefix_embedding.0.weight')
    settings = dict(start_layer_idx=19, end_layer_idx=31, injected_hidden_states=6,
                    prompt_tuning=prompt is not None,
                    shared_connector='connector.1.weight' not in state,
                    mlp='prompt_module.prefix_embedding.1.weight' in state)
    if prompt is not None:
        settings['prompt_len'] = len(prompt)
    return settings


def depalm_knobs(original, config):
    """Knobs of train.py that a DePALM run's yaml stands for; an llm and an encoder that `config`
    names already stay."""
    grid = tuple(original['feat_model'].get('tokens_grid', ()))
    knobs = vars(depalm_config(original, grid, None, None)) | depalm_text(original)
    # the token takes the space between it and the answer away
    token = original['llm'].get('special_answer_token')
    knobs |= dict(prompt_end=token or '', target_space=not token)
    if config['llm'] is None:
        name = original['llm'].get('name') or original['llm']['model']['name']
        knobs['llm'] = LLMS.get(name, name)
    if config['encoder'] is None:
        knobs |= depalm_encoder(original)
    return knobs


def depalm_encoder(original):
    """The knobs of train.py that say what a DePALM run's encoder is."""
    name = original['feat_model'].get('name')
    if name == 'disabled':
        raise Unsupported('feat_model.name=disabled')
    if name == 'MAViL':
        raise ValueError("feat_model.name=MAViL: its weights were never published; "
                         "--encoder= must name or point to the encoder that stands in its place "
                         "(audiomae is of its architecture)")
    knobs = dict(encoder=ENCODERS.get(name, name))
    if knobs['encoder'] == 'timesformer_k400':
        knobs['video_frames'] = original['dataset']['num_frames']
        knobs['video_tokens'] = 'mean' if original['feat_model'].get('average_time') else 'all'
    return knobs


def depalm_remarks(knobs, original):
    """What the user should know of a DePALM run that becomes one of ours."""
    remarks = []
    if knobs['connector'] in ('r_avgpool', 'r_maxpool'):
        remarks.append(f'{knobs["connector"]}: pools channels, as the original ran it, not tokens '
                       'as its paper says')
    if knobs['connector'] == 'c_attn':
        remarks.append('c_attn: the original mixes positions when it reshapes query and output, so '
                       'that the text reads later tokens; here it is causal, and its weights, '
                       'trained otherwise, give other texts')
    return remarks


def rename(state, model, config):
    """({our name: tensor}, what does not fit, in words)."""
    trained, tensors, unknown = model.trained(), {}, []
    encoder_is_tuned = config['encoder_bias_tuning'] or config['encoder_norm_tuning']
    for key, tensor in state.items():
        name = our_name(key, model.adapter.targets)
        if name in trained and trained[name].numel() == tensor.numel():
            tensors[name] = tensor.float().view(trained[name].shape)
        elif key.startswith('feat_model.') and not encoder_is_tuned or re.fullmatch(BUFFERS, key):
            continue
        else:
            ours = f' (ours: {name} {tuple(trained[name].shape)})' if name in trained else ''
            unknown.append(f'has no equivalent here: {key} {tuple(tensor.shape)}{ours}')
    missing = [f'not in the checkpoint: {k}' for k in sorted(set(trained) - set(tensors))]
    return tensors, unknown[:20] + missing[:20]
