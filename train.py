"""
Train an adapter between a frozen encoder and a frozen language model.

    python train.py config/demo.py                                    # one process, CPU or GPU
    torchrun --standalone --nproc_per_node=8 train.py config/coco_depalm.py         # 8 GPUs
    python train.py config/demo.py --learning_rate=1e-3 --out_dir=out/try1
    python train.py --help                                            # all hyperparameters

Writes into out_dir: best.safetensors and last.safetensors (the adapter: megabytes, never the frozen
models), resume.pt (all that `--init_from=resume` needs to continue bit-exactly), metrics.jsonl,
loss.png and config.json.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import sys
import time
from datetime import timedelta

import nanopalm.wheels  # noqa: F401  (first: says how torch's threads wait)

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

from configurator import (
    at_least,
    between,
    configure,
    may_change,
    may_change_on_resume,
    one_of,
)
from data import (
    ExampleDataset,
    collate,
    shuffled_batches,
    split_captions,
    to_device,
    tokenize_examples,
)
from nanopalm.cache import feature_cache, report_bad
from nanopalm.checkpoint import (
    build,
    copy_trained,
    load_checkpoint,
    pick_device_and_dtype,
    save_adapter,
)
from nanopalm.datasets import load_examples
from nanopalm.errors import explain_errors
from nanopalm.examples import BadData, target_texts
from nanopalm.files import lock_folder, write_atomically
from nanopalm.generate import check_medium, generate_texts
from nanopalm.logs import (
    draw_losses,
    find_peak_flops,
    make_logger,
    peak_memory,
    training_flops,
)
from nanopalm.muon import Muon
from nanopalm.parallel import checkpoint_activations, sum_over_processes
from nanopalm.progress import BAR
from nanopalm.prompts import check_braces, check_prompt_end
from nanopalm.runs import begin_run, is_resumed, read_state, record, remove_later_entries
from nanopalm.seeds import seeded
from nanopalm.validation import examples_to_score, is_better, score_texts
from nanopalm.workers import start_workers, worker_options

# ---- hyperparameters: config files and --key=value override them ---------------------------------
# (`: at_least(1)` says which values are allowed; `may_change`, that a resumed run may have another)

# -- models
llm = 'data/models/smollm2-135m'  # a local folder or a Hub id
# a name in encoders.py, of timm or the Hub, or a local folder; several with commas; None = blind
encoder = 'data/models/efficientnet-lite0'
# several encoders: their 'tokens' side by side, or their 'channels' joined per patch
encoder_join: one_of('tokens', 'channels') = 'tokens'
image_size: at_least(0) = 0  # pixels, 0 = the encoder's own
pool_patches: at_least(0) = 0  # patches are averaged to so many a side, 0 = they are not
# of a clip, 0 = the encoder's own; given to an image encoder, it sees each frame by itself
video_frames: at_least(0) = 0
video_tokens: one_of('all', 'mean') = 'all'  # of all frames, or their mean over time
audio_seconds: at_least(0) = 0  # of a clip, 0 = the encoder's own; only Whisper can do with fewer
# to a square: 'squash' as the papers, 'squash_whole' without their enlarging, 'pad' with white,
# 'crop' the centre
resize: one_of('squash', 'squash_whole', 'pad', 'crop') = 'squash'

# -- data
# a folder of train/val/test.jsonl, one .jsonl file, or a name in nanopalm/datasets.py
dataset = 'data/emoji'
data_dir = 'data/coco'  # where the official files of a named data set are
restval = False  # COCO: train on Karpathy's restval images, too
row_per_caption = False  # eP-ALM: each caption is an example of its own
train_rows: at_least(0) = 0.0  # 0 = all; a fraction up to 1, or a number, drawn by the seed
bad_rows: one_of('error', 'skip') & may_change = 'error'  # 'skip' leaves out unreadable files
max_text_tokens: at_least(1) = 50  # of a caption or answer
# processes that load files, on Linux; elsewhere the main process does
num_workers: at_least(0) & may_change = 2

# -- prompt, in this order (nanopalm/prompts.py composes it)
instruction = '{prompt}'  # around the question, empty for captions
answer_cue = ''  # behind the question, left out where a chat template says whose turn it is
# '' = none, 'own' = the LLM's, or a name in nanopalm/prompts.py
chat_template = ''
answer_prompt = ''  # in front of the answer
caption_prompt = ''  # alone, where nothing is asked; answer_prompt takes its place
prompt_end = ''  # a token that ends every prompt: '</a>' in the papers, of OPT
target_space = True  # between prompt and answer; the papers have none with OPT
loss_on_prompt = False  # eP-ALM: the question is learned, too

# -- feature cache: the frozen encoder is run once over the data set
cache_features = False
cache_dir: may_change = 'data/cache'
# 1 plain view of each training picture and this many - 1 augmented ones
cache_views: at_least(1) = 1
cache_batch_size: at_least(1) & may_change = 32

# -- connector: encoder tokens -> LLM tokens
connector = 'qpmapper'  # a name in adapters.CONNECTORS
adapter_dim: at_least(0) = 1024  # width of mappers and resamplers, 0 = the LLM's
# exact GELU or none, in mappers and between the layers of the output MLP
activation: one_of('gelu', 'none') = 'gelu'
out_layers: at_least(1) = 1  # linear layers from the connector's width to the LLM's
norm: one_of('rms', 'layer') = 'rms'  # of resampled and of injected tokens

# -- mappers (qpmapper, qformer, r_qpmapper)
n_queries: at_least(1) = 32  # learned queries = tokens that come out (r_qpmapper: per group)
mapper_layers: at_least(1) = 2
mapper_heads: at_least(1) = 8
mapper_dropout: between(0, 1) = 0.1
learned_queries = True  # False: the first n_queries outputs are kept
query_per_target = False  # own queries for every target layer

# -- resamplers (r_*)
reduction: at_least(1) = 4  # r: patches that become one token
drop_cls = False
duplicate_cls: at_least(0) = 1  # copies of CLS in front of the resampled tokens

# -- sources: which hidden states are read
source_layers: at_least(1) = 1  # the last n of the encoder
# all tokens, or CLS alone (connector 'linear'; the others read all)
source_tokens: one_of('all', 'cls') = 'all'
source_dropout: between(0, 1) = 0.0  # of hidden states; not in the papers, for small data
merge_sources = False  # concatenate the sources along the tokens: every target gets the same
n_connectors: at_least(1) = 1  # 1 = shared by all targets; as many as sources = one for each

# -- target layers: where in the LLM the tokens are injected
target_layers = ()  # such as 3,7,20; () = those that the next three say
n_targets = 1
last_target = 0  # negative counts from the top: -4 is the fourth from the top
target_stride = 1
# tokens flow on to the top of the LLM; False: they are dropped after the last target
keep_to_end = True
# a text in front of the tokens at layer 0, such as '<s>', for the LLM makes its first token an
# attention sink
prefix_start = ''
noncausal_prefix = False  # visual tokens see each other in both directions where they flow
token_norm = False  # normalise the tokens at each target layer
token_bias = False  # then y * scale + bias at each target layer
token_bias_per_token = False

# -- prompt tuning, and what is trained inside the frozen backbones
n_prompt: at_least(0) = 1  # trained tokens in front of the text
# standard deviation that queries and prompt tokens start from; 1 in the papers' code
token_init_std: at_least(0) = 0.02
prompt_mlp = False  # eP-ALM: prompt tokens go through Linear, Tanh, Linear
# of OPT; False (eP-ALM): prompt tokens have no position, and the text starts at 0
prompt_positions = True
# True, as in the papers' code: the LLM's own dropout is on in training (OPT 0.1, LLaMA none)
llm_train_mode = False
llm_bias_tuning = False  # y * scale + bias after every Linear of the LLM
llm_norm_tuning = False  # the norms of the LLM are trained
encoder_bias_tuning = False  # the same for the encoder, which then cannot be cached
encoder_norm_tuning = False
# eP-ALM's adapters inside the LLM
bottleneck: one_of('none', 'normal', 'parallel', 'scaled') = 'none'
bottleneck_at: one_of('mlp', 'attention') = 'mlp'
bottleneck_factor: at_least(1) = 4  # they are d_llm / factor wide
# in all layers, or in the targets alone: without prompt tokens nothing below needs a gradient then
bottleneck_layers: one_of('all', 'targets') = 'all'

# -- optimisation (the papers')
batch_size: at_least(1) = 16  # inputs per micro step, over all processes
texts_per_input: at_least(1) = 1  # captions of an input that share its prefix in one step
# batches of texts of like length: less padding, but not quite the papers' random batches
group_lengths = False
# micro steps per optimizer step; their gradients are summed, as in the papers' code
accumulate: at_least(1) = 1
epochs: at_least(0) & may_change = 8
max_iters: at_least(0) & may_change = 0  # optimizer steps, 0 = epochs
learning_rate: at_least(0) = 8e-4
prompt_rate: at_least(0) = 0.0  # learning rate of the prompt tokens, 0 = learning_rate
# learning rate of Muon for the adapter's matrices; 0 = AdamW, as in the papers
muon_rate: at_least(0) = 0.0
# how many steps Muon goes in one direction, which takes long to find (docs/tried.md)
muon_every: at_least(1) = 1
prompt_schedule = True  # False (eP-ALM): that of the prompt tokens stays what it is
warmup: between(0, 1) = 0.2  # of all steps, linear; then cosine
warmup_from: between(0, 1) = 0.0  # share of learning_rate it starts from; 0 = its first step's
schedule_by: one_of('step', 'epoch') = 'step'  # eP-ALM: the rate changes with the epoch alone
# with schedule_by='epoch', the warm-up has so many stairs of 100 steps
warmup_epochs: at_least(0) = 0
min_lr: between(0, 1) = 1e-4  # of learning_rate, at the end
weight_decay: at_least(0) = 0.1
beta1: between(0, 1) = 0.9
beta2: between(0, 1) = 0.999
adam_eps: at_least(0) = 1e-4
grad_clip: at_least(0) = 0.8  # 0 = none
label_smoothing: between(0, 1) = 2e-3
seed: at_least(0) = 0

# -- system
out_dir: may_change = 'out/run'
# 'resume' out_dir's run; 'auto' = resume if there is one, else scratch
init_from: one_of('scratch', 'resume', 'auto') & may_change = 'scratch'
start_from = ''  # another run's out_dir: scratch begins with its best weights
device: may_change = 'auto'  # 'cpu', 'cuda', 'cuda:1', ...
# auto = float32 on a CPU, on a GPU what the LLM was published in (float16 has a gradient scaler)
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'
compile: may_change = False  # torch.compile of the LLM's layers
# faster, with the same result (docs/7-performance.md); False: all goes through prefix_attention
fast_paths: may_change = True
# FSDP: each process keeps a share of the frozen LLM, for one that is larger than a GPU
shard_llm: may_change = False
# less memory for more time: the backward pass computes each LLM layer's activations again
checkpoint_layers: may_change = False

# -- logging and evaluation
log_interval: at_least(1) & may_change = 10  # steps
# steps between validation losses, samples and checkpoints
eval_interval: at_least(1) & may_change = 100
eval_rows: at_least(1) = 500  # at most, spread over the validation split
n_samples: at_least(0) & may_change = 4  # validation examples described at every evaluation
eval_metric: one_of('loss', 'CIDEr', 'exact', 'accuracy') = 'loss'  # chooses the best checkpoint
eval_metric_rows: at_least(2) = 200  # validation rows, spread over the split, it is computed on
eval_metric_beams: at_least(1) = 1  # their texts are generated with; 1 = greedy
logger: one_of('none', 'tensorboard', 'wandb') & may_change = 'none'  # besides metrics.jsonl
wandb_project: may_change = 'nanopalm'
# what eval_caption.py and eval_vqa.py do unless told otherwise
test_checkpoint: one_of('best', 'last') & may_change = 'best'  # DePALM tests the last
test_new_tokens: at_least(0) & may_change = 0  # at most, 0 = their own
# --------------------------------------------------------------------------------------------------
config = configure(globals(), show_changes=True)

# a user's mistake ends with one sentence and without a traceback
explain_errors(
    on_full_disk=f'checkpoints in {out_dir} are those of the last step that could be saved',
    on_interrupt='interrupted; --init_from=resume continues from the last checkpoint',
)


# what would fail late or not at all
if cache_features and (encoder_bias_tuning or encoder_norm_tuning):
    raise ValueError('cache_features=True: an encoder that is tuned cannot be cached')
check_braces('instruction', instruction)

# ---- processes, device, precision ----------------------------------------------------------------

world = int(os.environ.get('WORLD_SIZE', 1))
rank = int(os.environ.get('RANK', 0))
is_main = rank == 0
device, dtype = pick_device_and_dtype(device, dtype, llm)
on_gpu = device.startswith('cuda')
if world > 1:
    if on_gpu:
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
    dist.init_process_group('nccl' if on_gpu else 'gloo')
if on_gpu:
    # 'cuda' without a number is the first
    torch.cuda.set_device(torch.device(device).index or 0)
    torch.backends.cuda.matmul.allow_tf32 = True
if batch_size % world:
    raise ValueError(
        f'batch_size={batch_size} is over all processes: expected a multiple of their number, '
        f'{world}'
    )
autocast = functools.partial(
    torch.autocast,
    device.split(':')[0],
    dtype=getattr(torch, dtype),
    enabled=dtype != 'float32',
)


def say(text):
    """Prints a line, above the progress bar; of several processes, the first does."""
    if is_main:
        tqdm.write(text)


def wait_for_all():
    if world > 1:
        dist.barrier()


# ---- examples ------------------------------------------------------------------------------------

# of several processes, the first says what is left out
with contextlib.nullcontext() if is_main else contextlib.redirect_stdout(None):
    examples = {split: load_examples(config, split) for split in ('train', 'val')}
scored_examples = examples_to_score(examples['val'], config)
every = math.ceil(len(examples['val']) / eval_rows)
examples['val'] = examples['val'][::every]
if row_per_caption:
    examples['train'] = split_captions(examples['train'])

# a resumed run must have the same examples, too
digested = [examples, scored_examples] if scored_examples else examples
config['data_digest'] = hashlib.sha256(json.dumps(digested).encode()).hexdigest()[:16]
# and what dtype='auto' stands for, which depends on the device
config['dtype_used'] = dtype

# refuses to overwrite a run, or to continue it with other hyperparameters or data
resuming = is_resumed(config, may_change_on_resume(globals()))
if is_main:
    # until this process ends
    lock = lock_folder(out_dir)
    begin_run(config, resuming)
wait_for_all()

# ---- model ---------------------------------------------------------------------------------------

if shard_llm and not 1 < world <= len(examples['val']):
    raise ValueError(
        f'shard_llm=True: expected torchrun with 2 processes or more, and a validation example for '
        f'each; there are {world} processes and {len(examples["val"])} examples'
    )
torch.manual_seed(seed)
model, tokenizer = build(config, device, dtype, shard=shard_llm)
trained = model.trained()
if not trained:
    raise ValueError(
        f'nothing is trained: encoder={encoder}, n_prompt={n_prompt}, bottleneck={bottleneck!r}; '
        f'expected an encoder, prompt tokens (--n_prompt=1), bottlenecks, or tuned biases or norms'
    )
for layer in model.decoder.layers:
    if checkpoint_layers:
        checkpoint_activations(layer)
if compile:
    model.compile_layers()
if start_from and not resuming:
    donor, _, _ = load_checkpoint(start_from, 'best', 'cpu', 'float32')
    copy_trained(model, donor.trained(), f'start_from={start_from!r}')
check_prompt_end(tokenizer, config, model.llm.get_input_embeddings().num_embeddings)
for route in model.adapter.routes:
    say(f'route: {route.describe(model.adapter.cfg)}')

ddp = model
if world > 1:
    frozen = [n for n, t in model.state_dict(keep_vars=True).items() if not t.requires_grad]
    DDP._set_params_and_buffers_to_ignore_for_model(model, frozen)
    # without device_ids, which would move the labels to the GPU
    ddp = DDP(model)

# ---- batches -------------------------------------------------------------------------------------

# what is wrong with the files that could not be read, as keys
left_out = {}


def make_dataset(split):
    """Returns the ExampleDataset of a split: of files, of cached hidden states, or blind."""
    texts = tokenize_examples(examples[split], tokenizer, config)
    source = {}
    if encoder and cache_features:
        source['cache'] = feature_cache(
            examples[split], model.encoder, config, split, device, autocast, is_main, wait_for_all
        )
    elif encoder:
        source['preprocessing'] = model.encoder.preprocessing
    return ExampleDataset(examples[split], texts, config, train=split == 'train', **source)


def batches(split, keys):
    """Yields the batches of these keys, on the device, and how many labels each has. Raises BadData
    for a file that cannot be read, or with bad_rows='skip' notes it."""
    loader = torch.utils.data.DataLoader(
        datasets[split],
        batch_sampler=keys,
        collate_fn=functools.partial(collate, pad_id=tokenizer.pad_token_id),
        pin_memory=on_gpu,
        **worker_options(num_workers if encoder and not cache_features else 0),
    )
    for batch, errors in start_workers(loader):
        if errors and bad_rows == 'error':
            report_bad(errors, config)
        left_out.update(dict.fromkeys(errors))
        n_labels = (batch['labels'] != -100).sum()
        yield to_device(batch, device), n_labels


if encoder:
    check_medium(model.encoder, examples['train'])
    check_medium(model.encoder, examples['val'])
datasets = {split: make_dataset(split) for split in examples}
if batch_size > len(datasets['train']):
    raise BadData(
        f'batch_size={batch_size} is more than the {len(datasets["train"])} inputs of the training '
        f'split'
    )
steps_per_epoch = len(datasets['train']) / (batch_size * accumulate)
last_iter = max_iters or max(1, round(epochs * steps_per_epoch))

# ---- optimizer and schedule ----------------------------------------------------------------------


def configure_optimizers():
    """Returns AdamW over two named groups, which may have different learning rates, and with
    `muon_rate` Muon over the matrices of the adapter: it moves all directions of a matrix by as
    much, also those in which the encoder's features hardly differ."""
    matrices = {}
    if muon_rate:
        matrices = {name: p for name, p in trained.items() if is_adapter_matrix(name, p)}
    prompt = [p for name, p in trained.items() if name.startswith('adapter.prompt')]
    others = []
    for name, p in trained.items():
        if name not in matrices and not name.startswith('adapter.prompt'):
            others.append(p)
    groups = [
        dict(name='adapter', params=others, peak_rate=learning_rate, scheduled=True),
        dict(
            name='prompt',
            params=prompt,
            peak_rate=prompt_rate or learning_rate,
            scheduled=prompt_schedule,
        ),
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group['params']],
        lr=learning_rate,
        betas=(beta1, beta2),
        eps=adam_eps,
        weight_decay=weight_decay,
        fused=True,
    )
    if not matrices:
        return [adamw]
    group = dict(
        name='matrices', params=list(matrices.values()), peak_rate=muon_rate, scheduled=True
    )
    # a device that trains in half precision multiplies bfloat16 at least as fast as float32
    precision = torch.float32 if dtype == 'float32' else torch.bfloat16
    muon = Muon([group], lr=muon_rate, weight_decay=weight_decay, dtype=precision, every=muon_every)
    return [adamw, muon]


def is_adapter_matrix(name, parameter):
    parts = ('adapter.connectors', 'adapter.cross_attentions', 'adapter.bottlenecks')
    return name.startswith(parts) and parameter.ndim == 2


def rate_factor(step, last_iter, steps_per_epoch):
    """Returns the factor of the learning rate at a step: linear warm-up, then a cosine to min_lr.
    Without warmup_from, the warm-up begins with its first step's share."""
    if schedule_by == 'epoch':
        return rate_factor_by_epoch(step, steps_per_epoch)
    ramp = warmup * last_iter
    if step >= ramp:
        return cosine((step - ramp) / max(1, last_iter - ramp))
    if warmup_from:
        return warmup_from + (1 - warmup_from) * step / ramp
    # where the ramp ends between two steps, the last one would overshoot
    return min(1.0, (step + 1) / ramp)


def rate_factor_by_epoch(step, steps_per_epoch):
    """Returns the factor as eP-ALM's code sets it: on a cosine over the epochs that moves at the
    start of each. Its warm-up takes a hundred steps for an epoch, and so is over in the first."""
    epoch = int(step / steps_per_epoch)
    stair = max(step - 1, 0) // 100
    if epoch == 0 and stair < warmup_epochs:
        return warmup_from + (1 - warmup_from) * stair / warmup_epochs
    return cosine(epoch / max(1, epochs))


def cosine(progress):
    """Returns the factor at a progress of 0 (1) to 1 (min_lr)."""
    return min_lr + (1 - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def move_trained(optimizers, scaler, grad_norm):
    """Makes a step of all optimizers, or of none of them where a gradient overflowed in float16:
    the scaler alone would leave out only the optimizer that has it."""
    overflowed = scaler.is_enabled() and not math.isfinite(grad_norm)
    for optimizer in optimizers:
        if not overflowed:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()


optimizers = configure_optimizers()
# float16 alone has so small a range that gradients must be scaled up
scaler = torch.amp.GradScaler(device.split(':')[0], enabled=dtype == 'float16')

# ---- resume: all that a run needs to go on as if it had never stopped ----------------------------
# weights, optimizer, scaler and these four numbers; all that is random (batches, augmentation,
# dropout) is a function of seed and step, so no generator has to be saved

step = 0
best = math.inf if eval_metric == 'loss' else -math.inf
loss_sum = 0.0  # since the last log line
logged_at = 0  # the step of that line
if resuming:
    state = read_state(out_dir, device)
    copy_trained(model, state['trained'], f'{out_dir}/resume.pt')
    for optimizer, optimizer_state in zip(optimizers, state['optimizers'], strict=True):
        optimizer.load_state_dict(optimizer_state)
    scaler.load_state_dict(state['scaler'])
    step = state['step']
    best = state['best']
    loss_sum = state['loss_sum']
    logged_at = state['logged_at']
    if is_main:
        remove_later_entries(out_dir, step)
        print(f'resuming {out_dir} at step {step}')

# ---- evaluation ----------------------------------------------------------------------------------


@torch.no_grad()
def validation_loss():
    """Returns the mean loss over the labels of the validation examples, in plain view."""
    model.eval()
    # every process has as many batches
    own = range(rank, len(examples['val']), world)
    n_batches = math.ceil(len(examples['val']) / (world * batch_size))
    keys = [[(0, i) for i in own[b::n_batches]] for b in range(n_batches) if own[b::n_batches]]
    total = torch.zeros(2, device=device)  # loss, labels
    for batch, n_labels in batches('val', keys):
        with autocast():
            loss = model(**batch).float()
        total += torch.stack([loss * n_labels, n_labels.to(device)])
    model.train()
    total = sum_over_processes(total, world, device)
    return (total[0] / total[1]).item()


def validation_texts(examples, **options):
    """Returns the text generated for each example, the same in all processes, each of which
    generates its share. An LLM that is sharded runs in all processes or in none."""
    sharing = world > 1 and not shard_llm
    own = examples[rank::world] if sharing else examples
    model.eval()
    texts = generate_texts(model, tokenizer, config, own, batch_size, progress=False, **options)
    model.train()
    if sharing:
        shares = [None] * world
        dist.all_gather_object(shares, texts)
        texts = [shares[i % world][i // world] for i in range(len(examples))]
    return texts


def samples():
    """Returns captions of the first validation examples, [] in all processes but the first."""
    shown = examples['val'][:n_samples]
    if not shown or not (is_main or shard_llm):
        return []
    model.eval()
    texts = generate_texts(
        model, tokenizer, config, shown, len(shown), progress=False, max_new_tokens=20
    )
    model.train()
    return texts


def stop_if_diverged(step, name, value):
    if not math.isfinite(value):
        raise ValueError(
            f'step {step}: the {name} is {value}. The last checkpoint in {out_dir} is from before; '
            f'a lower learning_rate or grad_clip may help'
        )


def save(step, best, loss_sum, logged_at, is_best, entry):
    """Writes the checkpoints and all that resuming needs; entry: what is logged of this step."""
    facts = {key: value for key, value in entry.items() if key != 'samples'}
    for which in ('best', 'last') if is_best else ('last',):
        save_adapter(f'{out_dir}/{which}.safetensors', trained, config, **facts)
    state = dict(
        step=step,
        best=best,
        loss_sum=loss_sum,
        logged_at=logged_at,
        trained=trained,
        optimizers=[optimizer.state_dict() for optimizer in optimizers],
        scaler=scaler.state_dict(),
    )
    write_atomically(f'{out_dir}/resume.pt', lambda path: torch.save(state, path))


# what is run once in a while is not worth compiling
@torch.compiler.set_stance('force_eager')
def evaluate(step, best, loss_sum, logged_at):
    """Computes validation loss and score, generates samples, saves checkpoints. Returns the best
    value so far."""
    val_loss = validation_loss()
    stop_if_diverged(step, 'validation loss', val_loss)
    entry = dict(iter=step, val_loss=val_loss)
    value = val_loss
    score = ''
    if scored_examples:
        options = dict(num_beams=eval_metric_beams, max_new_tokens=max_text_tokens)
        texts = validation_texts(scored_examples, **options)
        value = score_texts(scored_examples, texts, config)
        entry[eval_metric] = value
        score = f', {eval_metric} {value:.2f}'
    is_best = is_better(value, best, eval_metric)
    if is_best:
        best = value
    entry['samples'] = samples()
    if not is_main:
        return best
    say(f'step {step}: validation loss {val_loss:.4f}{score}{" (best)" if is_best else ""}')
    for example, text in zip(examples['val'], entry['samples']):
        say(f'    {text or ""}   <- {target_texts(example)[0]}')
    log(entry)
    save(step, best, loss_sum, logged_at, is_best, entry)
    draw_losses(out_dir)
    return best


# ---- training ------------------------------------------------------------------------------------

other_logger = make_logger(config) if is_main else None


def log(entry):
    """Appends an entry to metrics.jsonl, and gives it to the other logger."""
    record(out_dir, entry)
    if other_logger:
        other_logger(entry)


def training_entry(step, loss, grad_norm, seconds, tokens, flops):
    """Returns what is logged of the steps since the last log line; seconds, tokens, flops: of one
    step of one process."""
    return dict(
        iter=step,
        epoch=step / steps_per_epoch,
        loss=loss,
        lr=learning_rate * rate_factor(step - 1, last_iter, steps_per_epoch),
        # float16's scaler skips a step whose gradients overflow
        grad_norm=grad_norm if math.isfinite(grad_norm) else None,
        ms=seconds * 1e3,
        samples_per_s=batch_size * accumulate / seconds,
        tokens_per_s=tokens * world / seconds,
        mfu=flops / seconds / peak_flops,
        peak_gb=peak_memory(device),
    )


def log_line(entry):
    """Returns a training entry as a line to print."""
    norm = math.inf if entry['grad_norm'] is None else entry['grad_norm']
    seconds_left = round(entry['ms'] / 1e3 * (last_iter - entry['iter']))
    return (
        f'iter {entry["iter"]}/{last_iter}: epoch {entry["epoch"]:.2f}, loss {entry["loss"]:.4f}, '
        f'lr {entry["lr"]:.1e}, norm {norm:.2f}, {entry["ms"]:.0f} ms, '
        f'{entry["samples_per_s"]:.1f} samples/s, {entry["tokens_per_s"]:.0f} tok/s, '
        f'mfu {entry["mfu"]:.0%}, {entry["peak_gb"]:.1f} GB, '
        f'ETA {timedelta(seconds=seconds_left)}'
    )


say(
    f'{sum(p.numel() for p in trained.values()):,} trained parameters in {len(trained)} tensors; '
    f'{sum(p.numel() for p in model.llm.parameters()):,} frozen in the LLM; '
    f'{len(examples["train"])} training and {len(examples["val"])} validation examples; '
    f'{last_iter} steps of {batch_size * accumulate} on {world} x {device} in {dtype}'
)
peak_flops = find_peak_flops(device, dtype)
train_batches = batches(
    'train',
    shuffled_batches(
        len(datasets['train']),
        batch_size,
        seed,
        first=step * accumulate,
        rank=rank,
        world=world,
        length=datasets['train'].length if group_lengths else None,
    ),
)
# written to a file, the log lines give the remaining time, so no bar is needed
show_bar = is_main and sys.stderr.isatty()
bar = tqdm(total=last_iter, initial=step, disable=not show_bar, unit='step', **BAR)
model.train()
if not resuming:
    best = evaluate(step, best, loss_sum, logged_at)
timed_from = step
began = time.time()
tokens = 0
flops = 0.0

while step < last_iter:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            factor = 1.0
            if group['scheduled']:
                factor = rate_factor(step, last_iter, steps_per_epoch)
            group['lr'] = group['peak_rate'] * factor

    for micro_step in range(accumulate):
        batch, n_labels = next(train_batches)
        # dropout and R-Rand are a function of the step, so that resuming is exact
        torch.manual_seed(seeded(seed, step, micro_step, rank) % 2**63)
        # of the labels of all processes, for the loss is their mean
        share = n_labels.to(device) / sum_over_processes(n_labels, world, device) * world
        # gradients are exchanged once per optimizer step
        last_micro_step = micro_step == accumulate - 1
        with contextlib.nullcontext() if last_micro_step or world == 1 else ddp.no_sync():
            with autocast():
                loss = ddp(**batch, label_smoothing=label_smoothing) * share
            scaler.scale(loss).backward()
        loss_sum = loss_sum + loss.detach() / accumulate
        tokens += model.text_tokens
        flops += training_flops(model, n_labels.item())

    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(trained.values(), grad_clip or math.inf)
    move_trained(optimizers, scaler, grad_norm)
    step += 1
    bar.update()

    if step % log_interval == 0 or step == last_iter:
        loss_sum = sum_over_processes(loss_sum, world, device) / world
        mean_loss = float(loss_sum) / (step - logged_at)
        stop_if_diverged(step, 'loss', mean_loss)
        steps = step - timed_from
        seconds = (time.time() - began) / steps
        if is_main:
            entry = training_entry(
                step, mean_loss, float(grad_norm), seconds, tokens / steps, flops / steps
            )
            say(log_line(entry))
            log(entry)
        loss_sum = 0.0
        logged_at = step
        timed_from = step
        began = time.time()
        tokens = 0
        flops = 0.0

    if step % eval_interval == 0 or step == last_iter:
        paused = time.time()
        # resume.pt holds the mean of all processes
        loss_sum = sum_over_processes(loss_sum, world, device) / world
        best = evaluate(step, best, loss_sum, logged_at)
        wait_for_all()
        began += time.time() - paused

bar.close()
if left_out:
    # every process reports its own
    report_bad(left_out, config)
say(f'trained: best validation {eval_metric} {best:.4f}; {out_dir}/best.safetensors')
if world > 1:
    dist.destroy_process_group()
