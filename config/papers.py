"""
The released runs of the papers: 183 of DePALM, ten of eP-ALM. `python -m config.papers` prints the
command of each.

A mechanism's config file asks here for the values that its run on the chosen data set had (see
`recipe` in configurator.py), so these two need no further flags:

    python train.py config/data/coco.py config/mechanism/qp_l0.py
    python train.py config/data/coco.py config/mechanism/qp_l0.py --train_rows=0.01

What follows the mechanism's file on the command line wins over these values. On data that the
papers did not use, the mechanism's file stands alone. The numbers are facts read from the
originals' scripts; tests/test_papers.py compares them with tests/depalm_runs.json, value by value.
"""

# ---- DePALM --------------------------------------------------------------------------------------

# {folder of the runs' scripts: (epochs, {mechanism: its run})}, where a run is (learning rate,
# gradient clip, inputs of a micro step, micro steps of an optimizer step). The inputs are those of
# one GPU; config/eight_gpus.py makes them eight times as many.
RUNS = {
    'coco_100%': (
        8,
        dict(
            qp_l0=(4e-4, 0.8, 16, 1),
            qp_inner=(8e-4, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.2, 16, 1),
        ),
    ),
    'coco_1%': (
        30,
        dict(
            qp_l0=(8e-4, 0.8, 16, 1),
            qp_inner=(8e-4, 0.8, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(1e-3, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'coco_100%_dinov2-L': (
        8,
        dict(
            qp_l0=(8e-4, 0.8, 8, 2),
            qp_inner=(1e-3, 0.8, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(1e-3, 0.8, 16, 1),
            limber_all=(1e-3, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'coco_1%_dinov2-L': (
        30,
        dict(
            qp_l0=(2e-3, 0.8, 16, 1),
            qp_inner=(4e-3, 0.8, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(4e-3, 0.1, 16, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(1e-3, 0.8, 16, 1),
            limber_all=(1e-3, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'coco_100%_bias-ft': (
        8,
        dict(
            qp_l0=(4e-4, 0.8, 4, 4),
            qp_inner=(4e-4, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(4e-4, 0.8, 8, 2),
            r_linear=(4e-4, 0.8, 2, 8),
            r_rand=(4e-4, 0.8, 2, 8),
            epalm=(1e-3, 0.8, 4, 4),
            limber_1=(8e-4, 0.8, 4, 4),
            limber_all=(4e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 4, 4),
        ),
    ),
    'textcaps_100%': (
        20,
        dict(
            qp_l0=(1e-3, 0.8, 16, 1),
            qp_inner=(1e-3, 0.8, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(4e-4, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(1e-3, 0.8, 16, 1),
        ),
    ),
    'vqa_100%': (
        8,
        dict(
            qp_l0=(4e-4, 0.8, 16, 1),
            qp_inner=(4e-4, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(4e-4, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'vqa_1%': (
        30,
        dict(
            qp_l0=(8e-4, 0.2, 16, 1),
            qp_inner=(8e-4, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(4e-3, 0.1, 16, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'vqa_100%_dinov2-L': (
        8,
        dict(
            qp_l0=(8e-4, 0.2, 16, 1),
            qp_inner=(4e-4, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'vqa_1%_dinov2-L': (
        30,
        dict(
            qp_l0=(4e-4, 0.8, 16, 1),
            qp_inner=(1e-3, 0.8, 8, 2),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(4e-4, 0.8, 8, 2),
            r_rand=(4e-4, 0.8, 8, 2),
            c_attn=(4e-3, 0.1, 16, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(4e-4, 0.8, 16, 1),
        ),
    ),
    'okvqa_100%': (
        20,
        dict(
            qp_l0=(4e-4, 0.8, 16, 1),
            qp_inner=(1e-3, 0.8, 16, 1),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(1e-3, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(1e-3, 0.8, 16, 1),
        ),
    ),
    'aokvqa_100%': (
        20,
        dict(
            qp_l0=(8e-4, 0.8, 16, 1),
            qp_inner=(1e-3, 0.8, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            c_attn=(8e-4, 0.05, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(8e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(1e-3, 0.8, 16, 1),
        ),
    ),
    'textvqa_100%': (
        20,
        dict(
            qp_l0=(1e-3, 0.2, 8, 2),
            qp_inner=(1e-3, 0.2, 8, 2),
            r_qpmapper=(1e-3, 0.5, 8, 2),
            r_avgpool=(1e-3, 0.8, 8, 2),
            r_linear=(1e-3, 0.8, 8, 2),
            r_rand=(1e-3, 0.8, 8, 2),
            epalm=(1e-3, 0.8, 16, 1),
            limber_1=(4e-4, 0.8, 16, 1),
            limber_all=(8e-4, 0.8, 4, 4),
            mapl=(8e-4, 0.8, 16, 1),
        ),
    ),
    'audiocaps_100%': (
        12,
        dict(
            qp_l0=(4e-4, 0.5, 4, 4),
            qp_inner=(4e-4, 0.5, 4, 4),
            r_qpmapper=(4e-4, 0.2, 8, 2),
            r_avgpool=(1e-3, 0.5, 8, 2),
            r_linear=(1e-3, 0.5, 8, 2),
            r_rand=(1e-3, 0.5, 8, 2),
            c_attn=(4e-4, 0.5, 4, 4),
            epalm=(4e-4, 0.5, 4, 4),
            limber_1=(1e-3, 0.5, 4, 4),
            limber_all=(1e-3, 0.5, 4, 4),
            mapl=(4e-4, 0.5, 4, 4),
        ),
    ),
    'audiocaps_1%': (
        30,
        dict(
            qp_l0=(4e-4, 0.5, 4, 4),
            qp_inner=(4e-4, 0.5, 4, 4),
            r_qpmapper=(4e-4, 0.5, 8, 2),
            r_avgpool=(4e-4, 0.5, 8, 2),
            r_linear=(4e-4, 0.5, 8, 2),
            r_rand=(4e-4, 0.5, 8, 2),
            c_attn=(4e-4, 0.5, 4, 4),
            epalm=(1e-3, 0.5, 4, 4),
            limber_1=(4e-4, 0.5, 4, 4),
            limber_all=(4e-4, 0.5, 4, 4),
            mapl=(4e-4, 0.5, 4, 4),
        ),
    ),
    'audiocaps_100%_clap': (
        12,
        dict(
            qp_l0=(8e-4, 0.2, 4, 4),
            qp_inner=(4e-4, 0.8, 4, 4),
            r_qpmapper=(4e-4, 0.5, 4, 4),
            r_avgpool=(1e-3, 0.8, 4, 4),
            r_linear=(4e-4, 0.8, 4, 4),
            r_rand=(1e-3, 0.8, 1, 16),
            c_attn=(8e-4, 0.05, 4, 4),
            epalm=(1e-3, 0.8, 4, 4),
            limber_1=(1e-3, 0.8, 4, 4),
            limber_all=(8e-4, 0.8, 1, 16),
            mapl=(8e-4, 0.8, 4, 4),
        ),
    ),
    'msrvtt_100%': (
        8,
        dict(
            qp_l0=(1e-3, 0.8, 8, 2),
            qp_inner=(1e-3, 0.8, 2, 8),
            r_qpmapper=(4e-4, 0.5, 1, 16),
            r_avgpool=(4e-4, 0.8, 8, 2),
            r_linear=(4e-4, 0.8, 2, 8),
            r_rand=(4e-4, 0.8, 2, 8),
            epalm=(1e-3, 0.8, 8, 2),
            limber_1=(1e-3, 0.8, 2, 8),
            limber_all=(8e-4, 0.8, 2, 8),
            mapl=(8e-4, 0.8, 8, 2),
        ),
    ),
}

# {our data set: its name in the folders above}
DEPALM_DATASETS = dict(
    coco='coco',
    textcaps='textcaps',
    vqav2_karpathy='vqa',
    vqav2='vqa',
    okvqa='okvqa',
    aokvqa='aokvqa',
    textvqa='textvqa',
    audiocaps='audiocaps',
    msrvtt_7k='msrvtt',
    msrvtt='msrvtt',
)
# {our encoder: the end of the folder of runs with it}; all other encoders leave no trace there
VARIANTS = dict(dinov2_l='_dinov2-L', clap='_clap')
# mechanisms whose tokens DePALM averages over the frames of a video
AVERAGED_OVER_TIME = ('r_rand', 'limber_all')
# what every run of DePALM had and is not the default here, because the default is better
DEPALM = dict(
    token_init_std=1.0,
    # the LLM's own dropout is on in training: 0.1 in OPT, none in LLaMA
    llm_train_mode=True,
    # times learning_rate
    warmup_from=1e-4,
    test_checkpoint='last',
    test_new_tokens=50,
)
# OPT's token that ends every prompt. The answer follows it without a space.
OPT_TEXT = dict(prompt_end='</a>', target_space=False)


def depalm(mechanism, config):
    """Returns {name: value} of the hyperparameters that DePALM's run of a mechanism had. The
    configuration says on which data set, which part of it, and with which encoder and LLM. Returns
    {} for a data set that DePALM did not use."""
    dataset = DEPALM_DATASETS.get(config['dataset'])
    if dataset is None:
        return {}
    folder = depalm_folder(dataset, config)
    epochs, runs = RUNS[folder]
    values = dict(DEPALM, epochs=epochs)
    values |= caption_prompts(config)
    if is_opt(config['llm']):
        values |= OPT_TEXT
    if mechanism in runs:
        learning_rate, grad_clip, batch_size, accumulate = runs[mechanism]
        values |= dict(
            learning_rate=learning_rate,
            grad_clip=grad_clip,
            batch_size=batch_size,
            accumulate=accumulate,
        )
    if mechanism == 'r_qpmapper' and '_1%' in folder:
        values['mapper_layers'] = 1
    if mechanism in AVERAGED_OVER_TIME and dataset == 'msrvtt':
        values['video_tokens'] = 'mean'
    return values


def depalm_folder(dataset, config):
    """Returns the key of RUNS that is nearest to the configuration: where there were no runs with
    the encoder, or on the part of the data set, the key of those without."""
    part = '1%' if config['train_rows'] == 0.01 else '100%'
    if config['encoder_bias_tuning']:
        variant = '_bias-ft'
    else:
        variant = VARIANTS.get(config['encoder'], '')
    for folder in (f'{dataset}_{part}{variant}', f'{dataset}_{part}'):
        if folder in RUNS:
            return folder
    return f'{dataset}_100%'


# ---- DePALM's prompts of captions ----------------------------------------------------------------

CAPTIONS = ('coco', 'textcaps', 'audiocaps', 'msrvtt', 'msrvtt_7k')
# LLMs, by a part of their names, whose captions DePALM puts 'Answer: ' before. LLaMA is not one.
ANSWERING = ('opt-', 'llama-2', 'llama2', 'alpaca', 'vicuna')
ANSWER = dict(answer_prompt='', caption_prompt='Answer: ')
NO_ANSWER = dict(answer_prompt='', caption_prompt='')


def answer_before_captions(config):
    """Returns {name: value} of the prompts of captions for the file of an LLM that DePALM asks for
    them with 'Answer: '. Returns {} for data that is not DePALM's, and for an instruction."""
    return ANSWER if asks_nothing(config) else {}


def caption_prompts(config):
    """Returns the same for any LLM, going by its name."""
    if not asks_nothing(config):
        return {}
    if any(part in model_name(config['llm']) for part in ANSWERING):
        return ANSWER
    if config['chat_template']:
        # DePALM had no such LLM: the data set's and the LLM's files stand
        return {}
    return NO_ANSWER


def asks_nothing(config):
    """Returns whether the prompts of one of DePALM's data sets of captions are empty."""
    return config['dataset'] in CAPTIONS and config['instruction'] == '{prompt}'


def is_opt(llm):
    """Returns whether a folder or a Hub id is named as OPT's sizes are: facebook/opt-6.7b."""
    return model_name(llm).startswith('opt-')


def model_name(llm):
    """Returns the last part of a folder or a Hub id, in lower case."""
    return str(llm).rstrip('/').split('/')[-1].lower()


# ---- eP-ALM --------------------------------------------------------------------------------------

# {data set: (epochs, inputs of an optimizer step, frames)}; the inputs are those of 4 GPUs together
EPALM = dict(
    coco=(8, 64, 0),
    vqav2_karpathy=(8, 256, 0),
    gqa=(8, 256, 0),
    audiocaps=(30, 32, 0),
    msrvtt_7k=(26, 64, 16),
    msrvtt_qa=(26, 32, 8),
    msvd_qa=(26, 32, 8),
)
# eP-ALM_pt-L: the inputs are those of 8 GPUs together. Its VQAv2 is the official training split.
EPALM_L = dict(
    coco=(35, 16, 0),
    vqav2=(35, 16, 0),
    gqa=(35, 64, 0),
)
EPALM_ALIASES = dict(vqav2='vqav2_karpathy', msrvtt='msrvtt_7k')


def epalm(config):
    """Returns {name: value} of the hyperparameters that eP-ALM's run on the configuration's data
    set had, {} for a data set that eP-ALM did not use."""
    dataset = EPALM_ALIASES.get(config['dataset'], config['dataset'])
    if dataset not in EPALM:
        return {}
    values = epalm_run(dataset, *EPALM[dataset])
    if dataset == 'audiocaps':
        values['encoder'] = 'ast_cls'
    elif values['video_frames']:
        values['encoder'] = 'timesformer_k600'
    else:
        values['encoder'] = 'vit_b_in21k_ft_clipnorm'
    return values


def epalm_l(config):
    """Returns the same for eP-ALM_pt-L, which is larger: OPT-6.7B and ViT-L."""
    dataset = config['dataset'].removesuffix('_karpathy')
    if dataset not in EPALM_L:
        return {}
    values = epalm_run(dataset, *EPALM_L[dataset])
    return values | dict(dataset=dataset, encoder='vit_l_in21k_clipnorm')


def epalm_run(dataset, epochs, batch_size, video_frames):
    """Returns {name: value} of what both sizes of eP-ALM have on a data set."""
    captions = dataset in ('coco', 'audiocaps', 'msrvtt_7k')
    return dict(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=1,
        video_frames=video_frames,
        restval=dataset == 'coco',
        # a question mark of its own stands behind the question's
        instruction='{prompt}' if captions else '{prompt}?',
        answer_cue='',
        caption_prompt='',
        answer_prompt='',
        prompt_end='' if captions else '</a>',
        target_space=False,
        # the checkpoint is chosen by scores during training
        eval_metric='CIDEr' if captions else 'accuracy',
    )


# ---- the commands --------------------------------------------------------------------------------

# {data set's name in RUNS or EPALM: its file in config/data, where that has another name}
CONFIG_FILES = dict(vqa='vqav2', vqav2_karpathy='vqav2', msrvtt_7k='msrvtt')
# {part of a folder's name in RUNS: the flag that it stands for}
FLAGS = {
    '1%': '--train_rows=0.01',
    'dinov2-L': '--encoder=dinov2_l',
    'clap': '--encoder=clap',
    'bias-ft': '--encoder_bias_tuning=True',
}


def commands():
    """Yields (folder, mechanism, arguments of train.py) of every released run."""
    for folder, (_, runs) in RUNS.items():
        dataset, *parts = folder.split('_')
        flags = [FLAGS[part] for part in parts if part in FLAGS]
        for mechanism in runs:
            yield folder, mechanism, config_files(dataset, mechanism) + flags
    for dataset in EPALM:
        yield f'eP-ALM {dataset}', 'epalm_original', config_files(dataset, 'epalm_original')
    for dataset in EPALM_L:
        mechanism = 'epalm_original_l'
        yield f'eP-ALM_pt-L {dataset}', mechanism, config_files(dataset, mechanism)


def config_files(dataset, mechanism):
    """Returns the two config files of a run."""
    file = CONFIG_FILES.get(dataset, dataset)
    return [f'config/data/{file}.py', f'config/mechanism/{mechanism}.py']


if __name__ == '__main__':
    for _, _, arguments in commands():
        print('python train.py', *arguments)
