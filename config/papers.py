"""
The released runs of the papers: 183 of DePALM, ten of eP-ALM. `python -m config.papers` prints the
command of each.

A mechanism's config file asks here for what its run on the data set before it had (see `recipe` in
configurator.py), so these two need no further flags:

    python train.py config/data/coco.py config/mechanism/qp_l0.py
    python train.py config/data/coco.py config/mechanism/qp_l0.py --train_rows=0.01

What follows the mechanism's file on the command line wins over it. On data that is not the papers'
the mechanism's file stands alone. The numbers are facts read from the originals' scripts;
tests/test_recipes.py compares them with tests/depalm_runs.json, value by value.
"""

# ---- DePALM --------------------------------------------------------------------------------------

# folder of the run's script: (epochs, {mechanism: (learning rate, gradient clip, inputs of a micro
# step, micro steps of an optimizer step)}). The inputs are those of one GPU; config/eight_gpus.py
# makes them eight times as many.
RUNS = {
    'coco_100%': (8, dict(
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
        mapl=(8e-4, 0.2, 16, 1))),
    'coco_1%': (30, dict(
        qp_l0=(8e-4, 0.8, 16, 1),
        qp_inner=(8e-4, 0.8, 8, 2),
        r_qpmapper=(1e-3, 0.5, 8, 2),
        r_avgpool=(1e-3, 0.8, 8, 2),
        r_linear=(1e-3, 0.8, 8, 2),
        r_rand=(1e-3, 0.8, 8, 2),
        epalm=(1e-3, 0.8, 16, 1),
        limber_1=(1e-3, 0.8, 16, 1),
        limber_all=(8e-4, 0.8, 4, 4),
        mapl=(8e-4, 0.8, 16, 1))),
    'coco_100%_dinov2-L': (8, dict(
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
        mapl=(8e-4, 0.8, 16, 1))),
    'coco_1%_dinov2-L': (30, dict(
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
        mapl=(8e-4, 0.8, 16, 1))),
    'coco_100%_bias-ft': (8, dict(
        qp_l0=(4e-4, 0.8, 4, 4),
        qp_inner=(4e-4, 0.8, 8, 2),
        r_qpmapper=(4e-4, 0.5, 8, 2),
        r_avgpool=(4e-4, 0.8, 8, 2),
        r_linear=(4e-4, 0.8, 2, 8),
        r_rand=(4e-4, 0.8, 2, 8),
        epalm=(1e-3, 0.8, 4, 4),
        limber_1=(8e-4, 0.8, 4, 4),
        limber_all=(4e-4, 0.8, 4, 4),
        mapl=(8e-4, 0.8, 4, 4))),
    'textcaps_100%': (20, dict(
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
        mapl=(1e-3, 0.8, 16, 1))),
    'vqa_100%': (8, dict(
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
        mapl=(8e-4, 0.8, 16, 1))),
    'vqa_1%': (30, dict(
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
        mapl=(8e-4, 0.8, 16, 1))),
    'vqa_100%_dinov2-L': (8, dict(
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
        mapl=(8e-4, 0.8, 16, 1))),
    'vqa_1%_dinov2-L': (30, dict(
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
        mapl=(4e-4, 0.8, 16, 1))),
    'okvqa_100%': (20, dict(
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
        mapl=(1e-3, 0.8, 16, 1))),
    'aokvqa_100%': (20, dict(
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
        mapl=(1e-3, 0.8, 16, 1))),
    'textvqa_100%': (20, dict(
        qp_l0=(1e-3, 0.2, 8, 2),
        qp_inner=(1e-3, 0.2, 8, 2),
        r_qpmapper=(1e-3, 0.5, 8, 2),
        r_avgpool=(1e-3, 0.8, 8, 2),
        r_linear=(1e-3, 0.8, 8, 2),
        r_rand=(1e-3, 0.8, 8, 2),
        epalm=(1e-3, 0.8, 16, 1),
        limber_1=(4e-4, 0.8, 16, 1),
        limber_all=(8e-4, 0.8, 4, 4),
        mapl=(8e-4, 0.8, 16, 1))),
    'audiocaps_100%': (12, dict(
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
        mapl=(4e-4, 0.5, 4, 4))),
    'audiocaps_1%': (30, dict(
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
        mapl=(4e-4, 0.5, 4, 4))),
    'audiocaps_100%_clap': (12, dict(
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
        mapl=(8e-4, 0.8, 4, 4))),
    'msrvtt_100%': (8, dict(
        qp_l0=(1e-3, 0.8, 8, 2),
        qp_inner=(1e-3, 0.8, 2, 8),
        r_qpmapper=(4e-4, 0.5, 1, 16),
        r_avgpool=(4e-4, 0.8, 8, 2),
        r_linear=(4e-4, 0.8, 2, 8),
        r_rand=(4e-4, 0.8, 2, 8),
        epalm=(1e-3, 0.8, 8, 2),
        limber_1=(1e-3, 0.8, 2, 8),
        limber_all=(8e-4, 0.8, 2, 8),
        mapl=(8e-4, 0.8, 8, 2))),
}


# our data set -> its name in the folders above
DEPALM_DATASETS = dict(
    coco='coco', textcaps='textcaps', vqav2_karpathy='vqa', vqav2='vqa', okvqa='okvqa',
    aokvqa='aokvqa', textvqa='textvqa', audiocaps='audiocaps', msrvtt_7k='msrvtt', msrvtt='msrvtt')
# our encoder -> what the folders above say of runs with it; of all others they say nothing
VARIANTS = dict(dinov2_l='_dinov2-L', clap='_clap')
# mechanisms whose tokens DePALM averages over the frames of a video
AVERAGED_OVER_TIME = ('r_rand', 'limber_all')
# what every run of DePALM had and is not the default here, because the default is better
DEPALM = dict(
    token_init_std=1.0,
    # the LLM's own dropout is on in training: 0.1 in OPT, none in LLaMA
    llm_train_mode=True,
    # of learning_rate
    warmup_from=1e-4,
    test_checkpoint='last',
    test_new_tokens=50)
# OPT's token that ends every prompt. The answer follows it without a space.
OPT_TEXT = dict(prompt_end='</a>', target_space=False)


def depalm(mechanism, knobs):
    """Returns {knob: value} of DePALM's run of a mechanism on the data set, the part of it, the
    encoder and the LLM that the knobs name; {} for a data set it did not use."""
    name = DEPALM_DATASETS.get(knobs['dataset'])
    if name is None:
        return {}
    folder = depalm_folder(name, knobs)
    epochs, runs = RUNS[folder]
    values = dict(DEPALM, epochs=epochs)
    if is_opt(knobs['llm']):
        values |= OPT_TEXT
    if asks_nothing(knobs['instruction'], knobs['dataset']):
        values['answer_prompt'] = answer_prompt_of(knobs['llm'])
    if mechanism in runs:
        rate, clip, batch_size, accumulate = runs[mechanism]
        values |= dict(learning_rate=rate, grad_clip=clip, batch_size=batch_size,
                       accumulate=accumulate)
    if mechanism == 'r_qpmapper' and '_1%' in folder:
        values['mapper_layers'] = 1
    if mechanism in AVERAGED_OVER_TIME and name == 'msrvtt':
        values['video_tokens'] = 'mean'
    return values


def depalm_folder(name, knobs):
    """Returns the key of RUNS that is nearest to the knobs: where there were no runs of the
    encoder, or of the part, those without."""
    part = '1%' if knobs['train_rows'] == 0.01 else '100%'
    if knobs['encoder_bias_tuning']:
        variant = '_bias-ft'
    else:
        variant = VARIANTS.get(knobs['encoder'], '')
    for folder in (f'{name}_{part}{variant}', f'{name}_{part}'):
        if folder in RUNS:
            return folder
    return f'{name}_100%'


def is_opt(llm):
    """Whether a folder or an id of the Hub is named as OPT's sizes are, facebook/opt-6.7b."""
    return str(llm).rstrip('/').split('/')[-1].lower().startswith('opt-')


CAPTIONS = ('coco', 'textcaps', 'audiocaps', 'msrvtt', 'msrvtt_7k')
# LLMs, by a part of their names, before whose captions DePALM puts 'Answer: '. LLaMA is not one.
ANSWERING = ('opt-', 'llama-2', 'llama2', 'alpaca', 'vicuna')


def asks_nothing(instruction, dataset):
    """Whether the prompts of one of the papers' data sets are empty, as those of captions are."""
    return instruction == '{prompt}' and dataset in CAPTIONS


def answer_prompt_of(llm):
    """Returns what DePALM puts where the prompt is empty."""
    name = str(llm).rstrip('/').split('/')[-1].lower()
    return 'Answer: ' if any(part in name for part in ANSWERING) else ''


# ---- eP-ALM --------------------------------------------------------------------------------------

# data set: (epochs, inputs of an optimizer step, frames); the inputs are those of 4 GPUs together
EPALM = dict(
    coco=(8, 64, 0),
    vqav2_karpathy=(8, 256, 0),
    gqa=(8, 256, 0),
    audiocaps=(30, 32, 0),
    msrvtt_7k=(26, 64, 16),
    msrvtt_qa=(26, 32, 8),
    msvd_qa=(26, 32, 8))
# eP-ALM_pt-L; here of 8 GPUs together. Its VQAv2 is the official split of training.
EPALM_L = dict(
    coco=(35, 16, 0),
    vqav2=(35, 16, 0),
    gqa=(35, 64, 0))
EPALM_ALIASES = dict(vqav2='vqav2_karpathy', msrvtt='msrvtt_7k')


def epalm(knobs):
    """Returns {knob: value} of eP-ALM's run on the data set that the knobs name; {} for a data set
    it did not use."""
    dataset = EPALM_ALIASES.get(knobs['dataset'], knobs['dataset'])
    if dataset not in EPALM:
        return {}
    values = epalm_run(dataset, knobs, *EPALM[dataset])
    if dataset == 'audiocaps':
        values['encoder'] = 'ast_cls'
    elif values['video_frames']:
        values['encoder'] = 'timesformer_k600'
    else:
        values['encoder'] = 'vit_b_in21k_ft_clipnorm'
    return values


def epalm_l(knobs):
    """The same of eP-ALM_pt-L, with OPT-6.7B and ViT-L."""
    dataset = knobs['dataset'].removesuffix('_karpathy')
    if dataset not in EPALM_L:
        return {}
    values = epalm_run(dataset, knobs, *EPALM_L[dataset])
    return values | dict(dataset=dataset, encoder='vit_l_in21k_clipnorm')


def epalm_run(dataset, knobs, epochs, batch_size, video_frames):
    """Returns what the two sizes have in common."""
    values = dict(epochs=epochs, batch_size=batch_size, accumulate=1, video_frames=video_frames,
                  target_space=False, answer_prompt='', restval=dataset == 'coco')
    captions = dataset in ('coco', 'audiocaps', 'msrvtt_7k')
    if captions:
        values |= dict(instruction='{prompt}', prompt_end='')
    else:
        # a question mark of its own stands behind the question's
        values |= dict(instruction='{prompt}?', prompt_end='</a>')
    # scores during training choose the checkpoint
    values['eval_metric'] = 'CIDEr' if captions else 'accuracy'
    return values


# ---- the commands --------------------------------------------------------------------------------

# data set's name in the folders, and then in EPALM: its config file
CONFIG_FILES = dict(vqa='vqav2', vqav2_karpathy='vqav2', msrvtt_7k='msrvtt')
FLAGS = {'1%': '--train_rows=0.01', 'dinov2-L': '--encoder=dinov2_l', 'clap': '--encoder=clap',
         'bias-ft': '--encoder_bias_tuning=True'}


def commands():
    """Yields (folder, mechanism, arguments of train.py) of every released run."""
    for folder, (_, runs) in RUNS.items():
        name, *parts = folder.split('_')
        flags = [FLAGS[part] for part in parts if part in FLAGS]
        for mechanism in runs:
            yield folder, mechanism, [*config_files(name, mechanism), *flags]
    for dataset in EPALM:
        yield f'eP-ALM {dataset}', 'epalm_original', config_files(dataset, 'epalm_original')
    for dataset in EPALM_L:
        mechanism = 'epalm_original_l'
        yield f'eP-ALM_pt-L {dataset}', mechanism, config_files(dataset, mechanism)


def config_files(dataset, mechanism):
    """Returns the two files of a run."""
    return [f'config/data/{CONFIG_FILES.get(dataset, dataset)}.py',
            f'config/mechanism/{mechanism}.py']


if __name__ == '__main__':
    for _, _, arguments in commands():
        print('python train.py', *arguments)
