"""
The originals' configurations and checkpoints in nanoPALM's terms: which knobs a DePALM `config` tree or an eP-ALM
`config.yaml` stands for, and which of our parameters each of their keys is. Used by `prepare.py import` and tests/parity.py.
"""
import re

from adapters import AdapterConfig

CONNECTOR = {'QPMapper': 'qpmapper', 'Q_former': 'qformer'}
RESAMPLER = dict(avg_pool='r_avgpool', max_pool='r_maxpool', conv='r_conv', linear='r_linear', qpmapper='r_qpmapper',
                 rand_any_patch='r_rand')


class Unsupported(Exception):
    """`key=value` of an original configuration that nanoPALM has no equivalent for."""


def depalm_config(config, grid, n_layers, n_sources):
    """The `config` tree of a DePALM run -> AdapterConfig. Raises Unsupported(key=value) for what it does not know."""
    a, prompt = config['adapter'], config['finetune']['prompt_tuning']
    t, bias, resampler = a['transformer'], a['bias_tuning'], config.get('resampler') or {}
    source, target, keep = a['source'], a['target'], a['source']['keep_features']

    def only(node, prefix, **expected):
        for key, values in expected.items():
            if key in node and node[key] not in (values if isinstance(values, tuple) else (values,)):
                raise Unsupported(f'{prefix}{key}={node[key]}')

    only(a, 'adapter.', name='prefix_tokens_inner_layers', insert_at=0, gating=False, mlp_scale=1, activation=('gelu', None, 'none'),
         norm_layer=('rms_norm', 'layer_norm'), padding_mode=('causal', 'non-causal'))
    only(a['mlp'], 'adapter.mlp.', bias=True, flatten=False, dropout=(0, 0.0))
    only(t, 'adapter.transformer.', mode=tuple(CONNECTOR), bias=True, activation_before_mlp=False, causal=False, keep_cls_token=False, pos_encoding=None)
    only(source, 'adapter.source.', to_idx=(-1, None), from_idx=None, stride=(None, 1))
    only(keep, 'adapter.source.keep_features.', from_idx=0, to_idx=None, stride=(None, 1), n_elements=(None, 'all', 1))
    only(target, 'adapter.target.', from_idx=(None, 0))
    only(resampler, 'resampler.', type=(None, *RESAMPLER), normalize=True)
    only(resampler.get('mlp', {}), 'resampler.mlp.', n_layers=0)
    only(resampler.get('qpmapper', {}), 'resampler.qpmapper.', bias=True, activation_before_mlp=False)
    only(prompt, 'finetune.prompt_tuning.', insert_at=0, full_model=False)
    only(config['finetune'], 'finetune.', remove_in_proj=False, train_only_first_proj=False, also_train_prompt=False,
         also_train_end_proj=False, also_train_end_proj_bias=False)
    if bias['enable']:
        only(bias, 'adapter.bias_tuning.', bias=True, scaling=True)
    tuning = config['finetune']['text_model']
    if tuning['bias_tuning']['enable']:
        only(tuning['bias_tuning'], 'finetune.text_model.bias_tuning.', bias=True, scaling=True)

    kind = resampler.get('type')
    mapper = resampler['qpmapper'] if kind == 'qpmapper' else t
    connector = RESAMPLER[kind] if kind else CONNECTOR[t['mode']] if t['n_layers'] else 'linear'
    if kind and t['n_layers']:
        raise Unsupported(f'resampler.type={kind} with adapter.transformer.n_layers={t["n_layers"]}')
    n_sources_read = source['n_elements'] or 1
    n_targets = target['n_elements'] or 1
    shared = a['sharing']['share_connections']
    return AdapterConfig(
        connector=connector, adapter_dim=a['embed_dim'] if isinstance(a['embed_dim'], int) else 0,
        activation=a['activation'] or 'none', out_layers=a['mlp']['n_layers'], norm=a['norm_layer'].split('_')[0],
        n_queries=mapper['n_tokens'], mapper_layers=mapper['n_layers'], mapper_heads=mapper['num_heads'], mapper_dropout=mapper['dropout'],
        learned_queries=t['embed_queries'], query_per_target=t['query_per_layer'],
        reduction=resampler.get('reduction_fact', 4), drop_cls=resampler.get('drop_cls', False), duplicate_cls=resampler.get('duplicate_cls', 1),
        source_layers=n_sources_read, source_tokens='cls' if keep['n_elements'] == 1 else 'all', merge_sources=a['merge_layer_features'],
        n_connectors=(a['sharing']['n_connections'] or 1) if shared else 1 if a['merge_layer_features'] else n_sources_read,
        n_targets=n_targets, last_target=target['to_idx'] if target['from_idx'] is None else target['from_idx'],
        target_stride=target['stride'] or 1, keep_to_end=a['keep_inserted_tokens_until_end'],
        token_norm=a['token_norm'], token_bias=bias['enable'], token_bias_per_token=bias['enable'] and not bias['share_on_tokens'],
        n_prompt=prompt['new_tokens'] if prompt['enable'] else 0,
        llm_bias_tuning=tuning['bias_tuning']['enable'], llm_norm_tuning=tuning['unfreeze_norm'])


def epalm_config(config, n_layers):
    """eP-ALM's own settings -> AdapterConfig."""
    first, end, n = config['start_layer_idx'], config['end_layer_idx'], config['injected_hidden_states']
    if config.get('connector_type', 'linear') != 'linear':
        raise Unsupported(f'connector_type={config["connector_type"]}')
    if (end - first) % n:
        raise Unsupported(f'injected_hidden_states={n} over layers {first}..{end - 1}')
    return AdapterConfig(
        connector='linear', source_layers=n, source_tokens='cls', n_connectors=1 if config.get('shared_connector') else n,
        n_targets=end - first, last_target=end - 1, keep_to_end=False,
        n_prompt=config['prompt_len'] if config['prompt_tuning'] else 0, prompt_mlp=config.get('mlp', False), prompt_positions=False)


# our name of each of the originals' keys: the first pattern that matches, `.base_module` taken out before
RULES = [
    (r'.*\.prompt_tokens', r'adapter.prompt'),
    (r'.*\.adapter_connectors\.(\d+)\.(\d+)\.(.*)', r'adapter.connectors.\1.\2.\3'),
    (r'.*\.layers\.(\d+)\.adapter_norm_layer\.(.*)', r'adapter.token_norms.<\1>.\2'),
    (r'.*\.layers\.(\d+)\.adapter_bias_tuning\.(.*)', r'adapter.token_biases.<\1>.\2'),
    (r'model_text\.(.*)', r'llm.\1'),
    (r'connector\.(\d+)\.(.*)', r'adapter.connectors.\1.1.\2'),                                 # eP-ALM from here
    (r'prompt_module\.prefix_embedding\.0\.weight', r'adapter.prompt'),
    (r'prompt_module\.prefix_embedding\.(\d)\.(.*)', lambda m: f'adapter.prompt_mlp.{int(m[1]) - 1}.{m[2]}'),
]
PARTS = [('scaling_param', 'scale'), ('bias_param', 'bias'), ('query_tokens', 'queries'), ('.pooling.', '.pool.'), ('norm_layer', 'norm')]


def our_name(key, targets):
    """An original's parameter name -> ours, or None. targets: the layers that tokens are given at."""
    key = key.replace('.base_module', '')
    for pattern, ours in RULES:
        if match := re.fullmatch(pattern, key):
            name = match.expand(ours) if isinstance(ours, str) else ours(match)
            name = re.sub(r'<(\d+)>', lambda m: str(targets.index(int(m[1]))), name)
            for theirs, our in PARTS:
                name = name.replace(theirs, our)
            return name
    return None


# ---- `python prepare.py import` -------------------------------------------------------------------------------------

LLMS = {'luodian/llama-7b-hf': 'huggyllama/llama-7b'}           # the same weights where they are still to be had
ENCODERS = {'eva-clip-L': 'eva_clip_l', 'clip-L': 'clip_l', 'clip-B': 'clip_b'}


def import_checkpoint(config, checkpoint, reference_config, out):
    """A DePALM `model_checkpoint_*.pt` or an eP-ALM `checkpoint_best.pth` -> out/best.safetensors, which samples and evaluates.

    config: train.py's knobs, of which the adapter's are replaced by those that the original's yaml (`experiment_config.yaml`,
    eP-ALM's `config.yaml`) stands for. Returns what there is to say about it. Raises ValueError for a key that has no equivalent.
    """
    import os

    import torch
    import yaml

    from model import build, save_adapter
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    state = next((state[k] for k in ('model', 'state_dict', 'model_state_dict') if isinstance(state.get(k), dict)), state)
    state = {k.removeprefix('module.'): v for k, v in state.items() if torch.is_tensor(v) and not k.endswith('rotary_emb.inv_freq')}
    original = yaml.safe_load(open(reference_config)) if reference_config else None
    epalm = any(k.startswith(('connector.', 'prompt_module.')) for k in state)
    said = []
    if epalm:
        settings = dict(start_layer_idx=19, end_layer_idx=31, injected_hidden_states=6, prompt_tuning='prompt_module.prefix_embedding.0.weight' in state,
                        shared_connector='connector.1.weight' not in state, mlp='prompt_module.prefix_embedding.1.weight' in state)
        if settings['prompt_tuning']:
            settings['prompt_len'] = len(state['prompt_module.prefix_embedding.0.weight'])
        config |= vars(epalm_config({**settings, **(original or {})}, None))
        said.append('eP-ALM lets the text read a visual token that has seen the answer, from the last injection to the top; here it is causal')
    elif original:
        grid = tuple(original['feat_model']['tokens_grid'])
        config |= vars(depalm_config(original, grid, None, None))
        llm, encoder = original['llm']['model']['name'], original['feat_model'].get('name')
        config |= dict(answer_prompt=original['llm'].get('special_answer_prompt') or '')
        if config['llm'] is None:
            config['llm'] = LLMS.get(llm, llm)
        if config['encoder'] is None:
            config['encoder'] = ENCODERS.get(encoder, encoder)
        if config['connector'] in ('r_avgpool', 'r_maxpool'):
            said.append(f'{config["connector"]}: pools channels, as the original ran it, not tokens as its paper says')
    model, _ = build(config, 'meta', 'float32')
    trained, tensors, unknown = model.trained(), {}, []
    for key, tensor in state.items():
        name = our_name(key, model.adapter.targets)
        if name in trained and trained[name].numel() == tensor.numel():
            tensors[name] = tensor.float().view(trained[name].shape)
        else:
            unknown.append(f'{key} {tuple(tensor.shape)}' + (f' (ours: {name} {tuple(trained[name].shape)})' if name in trained else ''))
    missing = sorted(set(trained) - set(tensors))
    if unknown or missing:
        raise ValueError('\n  '.join([f'{checkpoint} does not fit the knobs {"of " + reference_config if reference_config else "given (no --reference_config)"}',
                                      *(f'has no equivalent here: {k}' for k in unknown[:20]), *(f'not in the checkpoint: {k}' for k in missing[:20])]))
    os.makedirs(out, exist_ok=True)
    save_adapter(f'{out}/best.safetensors', tensors, config, imported_from=os.path.basename(checkpoint))
    return said + [f'{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} parameters: {out}/best.safetensors']
