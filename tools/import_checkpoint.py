"""
Translates configurations and checkpoints of the papers' own code ("the originals") into nanoPALM's:
which of our hyperparameters a DePALM `config` tree or an eP-ALM `config.yaml` stands for, and which
of our parameters each of their tensors is. Used by `prepare.py import` and tests/parity.py.
"""

import os
import pickle
import re

from adapters import AdapterConfig
from nanopalm.runs import files_of_run

# DePALM's names -> ours
CONNECTORS = {'QPMapper': 'qpmapper', 'Q_former': 'qformer'}
RESAMPLERS = {
    'avg_pool': 'r_avgpool',
    'max_pool': 'r_maxpool',
    'conv': 'r_conv',
    'linear': 'r_linear',
    'qpmapper': 'r_qpmapper',
    'rand_any_patch': 'r_rand',
}


class Unsupported(Exception):
    """An option of an original, `key=value`, that nanoPALM has no equivalent for."""


# ---- DePALM's configuration ----------------------------------------------------------------------


def depalm_config(config, grid, n_layers, n_sources):
    """Returns the AdapterConfig that the `config` tree of a DePALM run stands for. The other
    arguments change nothing. Raises Unsupported for an option without an equivalent, KeyError for
    an option that is missing."""
    check_depalm(config)
    a = config['adapter']
    tuning = config['finetune']
    if a['name'] == 'cross_attention':
        connector = cross_attention_hyperparameters(config)
    else:
        connector = prefix_hyperparameters(config)
    source = a['source']
    target = a['target']
    prompt = tuning['prompt_tuning']
    n_sources_read = source['n_elements'] or 1
    n_connectors = 1 if a['merge_layer_features'] else n_sources_read
    if a['sharing']['share_connections']:
        n_connectors = a['sharing']['n_connections'] or 1
    last_target = target['to_idx'] if target['from_idx'] is None else target['from_idx']
    encoder_tuning = tuning.get('feat_model', dict(bias_tuning=dict(enable=False)))
    return AdapterConfig(
        **connector,
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
        encoder_norm_tuning=encoder_tuning.get('unfreeze_norm', False),
    )


def require(node, prefix, **expected):
    """Raises Unsupported for a key of the node whose value is not the expected one, or none of a
    tuple of expected ones."""
    for key, values in expected.items():
        if not isinstance(values, tuple):
            values = (values,)
        if key in node and node[key] not in values:
            raise Unsupported(f'{prefix}{key}={node[key]}')


def check_depalm(config):
    """Raises Unsupported for an option that nanoPALM has one value of, whatever the mechanism."""
    a = config['adapter']
    finetune = config['finetune']
    require(
        a,
        'adapter.',
        name=('prefix_tokens_inner_layers', 'cross_attention'),
        insert_at=0,
        mlp_scale=1,
        activation=('gelu', None, 'none'),
        norm_layer=('rms_norm', 'layer_norm'),
        padding_mode=('causal', 'non-causal'),
    )
    require(a['mlp'], 'adapter.mlp.', bias=True, flatten=False, dropout=(0, 0.0))
    require(
        a['transformer'],
        'adapter.transformer.',
        mode=tuple(CONNECTORS),
        bias=True,
        activation_before_mlp=False,
        causal=False,
        keep_cls_token=False,
        pos_encoding=None,
    )
    require(a['source'], 'adapter.source.', to_idx=(-1, None), from_idx=None, stride=(None, 1))
    require(
        a['source']['keep_features'],
        'adapter.source.keep_features.',
        from_idx=0,
        to_idx=None,
        stride=(None, 1),
        n_elements=(None, 'all', 1),
    )
    require(a['target'], 'adapter.target.', from_idx=(None, 0))
    require(finetune['prompt_tuning'], 'finetune.prompt_tuning.', insert_at=0, full_model=False)
    require(
        finetune,
        'finetune.',
        remove_in_proj=False,
        train_only_first_proj=False,
        also_train_prompt=False,
        also_train_end_proj=False,
        also_train_end_proj_bias=False,
    )
    for model in ('text_model', 'feat_model'):
        tuning = finetune.get(model, {}).get('bias_tuning', dict(enable=False))
        if tuning['enable']:
            require(tuning, f'finetune.{model}.bias_tuning.', bias=True, scaling=True)


def prefix_hyperparameters(config):
    """Returns the hyperparameters of a connector whose tokens are a prefix."""
    a = config['adapter']
    transformer = a['transformer']
    bias = a['bias_tuning']
    resampler = config.get('resampler') or {}
    kind = resampler.get('type')
    require(a, 'adapter.', gating=False)
    require(resampler, 'resampler.', type=(None, *RESAMPLERS), normalize=True)
    require(resampler.get('mlp', {}), 'resampler.mlp.', n_layers=0)
    require(
        resampler.get('qpmapper', {}), 'resampler.qpmapper.', bias=True, activation_before_mlp=False
    )
    if bias['enable']:
        require(bias, 'adapter.bias_tuning.', bias=True, scaling=True)
    if kind and transformer['n_layers']:
        raise Unsupported(
            f'resampler.type={kind} with adapter.transformer.n_layers={transformer["n_layers"]}'
        )
    if kind:
        connector = RESAMPLERS[kind]
    elif transformer['n_layers']:
        connector = CONNECTORS[transformer['mode']]
    else:
        connector = 'linear'
    mapper = resampler['qpmapper'] if kind == 'qpmapper' else transformer
    cls_alone = a['source']['keep_features']['n_elements'] == 1
    return dict(
        connector=connector,
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
        token_bias_per_token=bias['enable'] and not bias['share_on_tokens'],
    )


def cross_attention_hyperparameters(config):
    """Returns the hyperparameters of c-attn. The original ignores `adapter.bias_tuning` there."""
    a = config['adapter']
    require(a, 'adapter.', gating=True, token_norm=True)
    require(
        a['cross_attn'],
        'adapter.cross_attn.',
        llm_mlp_layers=2,
        vis_mlp_layers=0,
        out_mlp_layers=0,
        residual=False,
    )
    require(
        a['transformer'],
        'adapter.transformer.',
        mode='QPMapper',
        n_tokens=None,
        embed_queries=False,
    )
    require(a['sharing'], 'adapter.sharing.', share_connections=True, n_connections=1)
    require(config.get('resampler') or {}, 'resampler.', type=None)
    if a['transformer']['n_layers'] < 1:
        raise Unsupported(f'adapter.transformer.n_layers={a["transformer"]["n_layers"]}')
    return dict(
        connector='c_attn',
        mapper_layers=a['transformer']['n_layers'],
        mapper_heads=a['transformer']['num_heads'],
        mapper_dropout=a['transformer']['dropout'],
    )


# the data sets of DePALM that have questions; the others have captions
QUESTIONS = ('VQA', 'OKVQA', 'AOKVQA', 'text_vqa')


def depalm_text(config):
    """Returns dict(instruction, answer_prompt) of train.py that make the prompts of a DePALM
    run."""
    dataset = config.get('dataset') or {}
    mode = dataset.get('insert_instruction', False)
    instructions = dataset.get('instructions')
    # not `mode in (..., False)`: 0 is the first of the instructions
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
    # the original strips an instruction, too: there is no line break at its end
    instruction = instruction.strip()
    answer_prompt = ''
    # the original has an answer prompt only where the prompt would be empty
    if instruction == '{prompt}' and dataset.get('name') not in QUESTIONS:
        answer_prompt = config['llm'].get('special_answer_prompt') or ''
    return dict(instruction=instruction, answer_prompt=answer_prompt)


# ---- eP-ALM's configuration ----------------------------------------------------------------------


def epalm_config(config, n_layers):
    """Returns the AdapterConfig that the settings of an eP-ALM run stand for; n_layers changes
    nothing. Raises Unsupported for an option without an equivalent."""
    first = config['start_layer_idx']
    end = config['end_layer_idx']
    n_sources = config['injected_hidden_states']
    if config.get('connector_type', 'linear') != 'linear':
        raise Unsupported(f'connector_type={config["connector_type"]}')
    if (end - first) % n_sources:
        raise Unsupported(f'injected_hidden_states={n_sources} over layers {first}..{end - 1}')
    return AdapterConfig(
        connector='linear',
        source_layers=n_sources,
        source_tokens='cls',
        n_connectors=1 if config.get('shared_connector') else n_sources,
        n_targets=end - first,
        last_target=end - 1,
        keep_to_end=False,
        n_prompt=config['prompt_len'] if config['prompt_tuning'] else 0,
        prompt_mlp=config.get('mlp', False),
        prompt_positions=False,
        token_init_std=1.0,
        llm_train_mode=True,
    )


def epalm_text(config):
    """Returns the hyperparameters of train.py that make the texts of an eP-ALM run: a question
    gets another question mark and a special token at its end, a caption has no prompt."""
    token = config.get('special_answer_token')
    return dict(
        instruction='{prompt}?' if token else '{prompt}',
        answer_prompt='',
        prompt_end=token or '',
        target_space=False,
    )


# ---- names of parameters -------------------------------------------------------------------------

CROSS = 'adapter.cross_attentions.0'
# (pattern of an original's name without `.base_module`, our name): the first that matches counts
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
# parts of a name that is translated so far -> ours
PARTS = [
    ('scaling_param', 'scale'),
    ('bias_param', 'bias'),
    ('query_tokens', 'queries'),
    ('.pooling.weight', '.pool.layer.weight'),
    ('.pooling.bias', '.pool.layer.bias'),
    ('.pooling.', '.pool.'),
    ('norm_layer', 'norm'),
]


def our_name(key, targets):
    """Returns our name of an original's parameter, None if there is no such parameter here.
    targets: the layers that tokens are injected at."""
    name = translate(key.replace('.base_module', ''))
    if name is None:
        return None
    # <layer> -> its place among the targets
    layer = re.search(r'<(\d+)>', name)
    if layer:
        name = name.replace(layer[0], str(targets.index(int(layer[1]))))
    for theirs, our in PARTS:
        name = name.replace(theirs, our)
    return name


def translate(key):
    """Returns what the first of RULES that matches makes of a key, None if none matches."""
    for pattern, ours in RULES:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(ours)
    return None


# ---- `python prepare.py import` ------------------------------------------------------------------

# the names in DePALM's yaml -> where the same weights can still be downloaded
LLMS = {
    'luodian/llama-7b-hf': 'huggyllama/llama-7b',
    'alpaca-7b': 'chavinlo/alpaca-native',
    'meta-llama/llama-2-7b-hf': 'meta-llama/Llama-2-7b-hf',
    'meta-llama/llama-2-7b-chat-hf': 'meta-llama/Llama-2-7b-chat-hf',
    'lmsys/vicuna-7b-v1.5': 'lmsys/vicuna-7b-v1.5',
    'facebook/opt-6.7b': 'facebook/opt-6.7b',
}
# the names in DePALM's yaml -> the short names of encoders.py
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
# what the originals' checkpoints hold of a frozen encoder that is no parameter
BUFFERS = (
    r'.*\.(position_ids|running_mean|running_var|num_batches_tracked|attn_mask'
    r'|relative_position_index)'
)


def import_checkpoint(config, checkpoint, reference_config, out):
    """Writes a DePALM `model_checkpoint_*.pt` or an eP-ALM `checkpoint_best.pth` as
    out/best.safetensors, which the other scripts read. Returns remarks for the user.

    config: the hyperparameters of train.py. Those of the adapter and of the text are replaced by
    what the original's yaml (`experiment_config.yaml`, eP-ALM's `config.yaml`) stands for. Raises
    ValueError for a file of another kind and for a tensor that has no equivalent, Unsupported for
    such an option.
    """
    # not at the top: it imports the models, and tests/parity.py imports this module
    from nanopalm.checkpoint import build, save_adapter

    present = files_of_run(out)
    if present:
        raise ValueError(
            f'{out} holds a run ({", ".join(present)}): give another --out, or remove it'
        )
    state, original = read_original(checkpoint, reference_config)
    hyperparameters, remarks = translate_config(state, original, config, reference_config)
    config |= hyperparameters
    # shapes alone
    model, _ = build(config, 'meta', 'float32')
    tensors, problems = rename(state, model, config)
    if problems:
        source = f'of {reference_config}' if reference_config else 'given (no --reference_config)'
        heading = f'{checkpoint} does not fit the hyperparameters {source}'
        raise ValueError('\n  '.join([heading, *problems]))
    os.makedirs(out, exist_ok=True)
    path = f'{out}/best.safetensors'
    save_adapter(path, tensors, config, imported_from=os.path.basename(checkpoint))
    size = sum(tensor.numel() for tensor in tensors.values())
    return [*remarks, f'{len(tensors)} tensors, {size:,} parameters: {path}']


def translate_config(state, original, config, reference_config):
    """Returns the hyperparameters that an original's yaml, or without one an eP-ALM checkpoint,
    stands for; and remarks about them."""
    if any(key.startswith(('connector.', 'prompt_module.')) for key in state):
        settings = epalm_settings(state) | (original or {})
        hyperparameters = vars(epalm_config(settings, None))
        if original:
            hyperparameters |= epalm_text(original)
        return hyperparameters, [EPALM_REMARK]
    if not original:
        return {}, []
    try:
        hyperparameters = depalm_hyperparameters(original, config)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{reference_config}: expected the experiment_config.yaml of a DePALM run '
            f'({type(error).__name__}: {error})'
        ) from error
    return hyperparameters, depalm_remarks(hyperparameters)


def read_original(checkpoint, reference_config):
    """Returns {name: tensor} of the checkpoint, and the yaml as a dict, None if there is none.
    Raises ValueError for files of another kind."""
    import torch
    import yaml

    try:
        state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f'{checkpoint}: expected tensors that torch.save wrote ({error})'
        ) from error
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
        with open(reference_config, encoding='utf-8') as file:
            original = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise ValueError(f'{reference_config}: expected a yaml ({error})') from error
    if not isinstance(original, dict):
        raise ValueError(f'{reference_config}: expected the settings of a run, as key: value')
    return tensors, original


def epalm_settings(state):
    """Returns the settings of an eP-ALM run: those that its checkpoint tells, and the defaults of
    its code for the rest."""
    prompt = state.get('prompt_module.prefix_embedding.0.weight')
    settings = dict(
        start_layer_idx=19,
        end_layer_idx=31,
        injected_hidden_states=6,
        prompt_tuning=prompt is not None,
        shared_connector='connector.1.weight' not in state,
        mlp='prompt_module.prefix_embedding.1.weight' in state,
    )
    if prompt is not None:
        settings['prompt_len'] = len(prompt)
    return settings


def depalm_hyperparameters(original, config):
    """Returns the hyperparameters of train.py that a DePALM run's yaml stands for. An llm and an
    encoder that `config` already names stay."""
    grid = tuple(original['feat_model'].get('tokens_grid', ()))
    hyperparameters = vars(depalm_config(original, grid, None, None)) | depalm_text(original)
    # behind the special token there is no space before the answer
    token = original['llm'].get('special_answer_token')
    hyperparameters |= dict(prompt_end=token or '', target_space=not token)
    if config['llm'] is None:
        name = original['llm'].get('name') or original['llm']['model']['name']
        hyperparameters['llm'] = LLMS.get(name, name)
    if config['encoder'] is None:
        hyperparameters |= depalm_encoder(original)
    return hyperparameters


def depalm_encoder(original):
    """Returns the hyperparameters of train.py for the encoder of a DePALM run."""
    name = original['feat_model'].get('name')
    if name == 'disabled':
        raise Unsupported('feat_model.name=disabled')
    if name == 'MAViL':
        raise ValueError(
            'feat_model.name=MAViL: its weights were never published; --encoder= must name another '
            'encoder in its place (audiomae has the same architecture)'
        )
    hyperparameters = dict(encoder=ENCODERS.get(name, name))
    if hyperparameters['encoder'] == 'timesformer_k400':
        average = original['feat_model'].get('average_time')
        hyperparameters['video_frames'] = original['dataset']['num_frames']
        hyperparameters['video_tokens'] = 'mean' if average else 'all'
    return hyperparameters


EPALM_REMARK = (
    'eP-ALM lets the text read a visual token that has seen the answer, from the last injection to '
    'the top; here it is causal'
)


def depalm_remarks(hyperparameters):
    """Returns what the user should know about a DePALM run that is imported."""
    connector = hyperparameters['connector']
    if connector in ('r_avgpool', 'r_maxpool'):
        return [
            f'{connector}: pools channels, as the original ran it, not tokens as its paper says'
        ]
    if connector == 'c_attn':
        return [
            'c_attn: the original mixes positions when it reshapes query and output, so that the '
            'text reads later tokens; here it is causal, and its weights, which were trained '
            'otherwise, give other texts'
        ]
    return []


def rename(state, model, config):
    """Returns {our name: tensor} of an original's {name: tensor}, and what does not fit the model's
    trained parameters, as a list of sentences."""
    trained = model.trained()
    tensors = {}
    unknown = []
    for key, tensor in state.items():
        name = our_name(key, model.adapter.targets)
        if name in trained and trained[name].numel() == tensor.numel():
            tensors[name] = tensor.float().view(trained[name].shape)
        elif not is_of_frozen_encoder(key, config):
            problem = f'has no equivalent here: {key} {tuple(tensor.shape)}'
            if name in trained:
                problem += f' (ours: {name} {tuple(trained[name].shape)})'
            unknown.append(problem)
    missing = [f'not in the checkpoint: {name}' for name in sorted(set(trained) - set(tensors))]
    return tensors, unknown[:20] + missing[:20]


def is_of_frozen_encoder(key, config):
    """Whether an original's tensor is of the frozen encoder, which is not in our checkpoints."""
    encoder_is_tuned = config['encoder_bias_tuning'] or config['encoder_norm_tuning']
    is_weight = key.startswith('feat_model.') and not encoder_is_tuned
    return is_weight or re.fullmatch(BUFFERS, key) is not None
