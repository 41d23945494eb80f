"""
Train an adapter between a frozen encoder and a frozen language model.

    python train.py config/demo.py                                                  # one process, CPU or one GPU
    torchrun --standalone --nproc_per_node=8 train.py config/coco_depalm.py         # one machine, 8 GPUs
    python train.py config/demo.py --learning_rate=1e-3 --out_dir=out/try1          # any knob below, or of adapters.AdapterConfig

Writes into out_dir: best.safetensors and last.safetensors (the adapter: megabytes, never the frozen models), resume.pt (all that
`--init_from=resume` needs to continue bit-exactly), metrics.jsonl, loss.png, config.json.
"""
import contextlib
import functools
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

import adapters
from adapters import AdapterConfig
from configurator import configure
from data import ExampleDataset, collate, shuffled_batches, split_captions, tokenize_examples
from nanopalm.cache import feature_cache, report_bad
from nanopalm.checkpoint import build, load_checkpoint, pick_device_and_dtype, save_adapter
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData, medium_of, merge_captions, spread_examples, target_texts
from nanopalm.files import write_atomically
from nanopalm.generate import generate_texts
from nanopalm.logs import draw_losses, find_peak_flops, make_logger, peak_memory, training_flops
from nanopalm.parallel import checkpoint_activations
from nanopalm.progress import BAR
from nanopalm.prompts import check_prompt_end
from nanopalm.seeds import seeded

# ---- knobs: config files and --key=value override them; those of the adapter are in adapters.AdapterConfig ----------
# models
llm = 'data/models/smollm2-135m'    # a local folder or a Hub id
encoder = 'data/models/efficientnet-lite0'  # a name in encoders.py, of timm or the Hub, or a local folder; None = blind
image_size = 0                      # pixels, 0 = the encoder's own
video_frames = 0                    # of a clip, 0 = the encoder's own; given to an image encoder, it sees each frame by itself
video_tokens = 'all'                # of all frames, or their 'mean' over time
audio_seconds = 0                   # of a clip, 0 = the encoder's own; only Whisper can do with fewer
resize = 'squash'                   # to a square: 'squash' as the papers, 'squash_whole' without their enlarging, 'pad' with white, 'crop' the centre
# data
dataset = 'data/stamps'             # a folder of train/val/test.jsonl, one .jsonl file, or a name in rows.DATASETS
data_dir = 'data/coco'              # where a named data set's official files are
restval = False                     # COCO: train on Karpathy's restval images too
row_per_caption = False             # eP-ALM: each caption is an input of its own
train_rows = 0.0                    # 0 = all; a fraction up to 1, or a number of rows, drawn by the seed
instruction = '{prompt}'            # around the question, empty for captions
answer_cue = ''                     # between question and answer in plain text, such as '\n\nAnswer:'
chat_template = ''                  # '' = plain text; 'own' = that of the LLM's tokenizer; or a name in nanopalm/prompts.py
caption_prompt = ''                 # where nothing is asked: 'Answer: ' in DePALM, of some LLMs
answer_prompt = ''                  # in front of every answer
prompt_end = ''                     # a token that ends every prompt: '</a>' in the papers, of OPT
target_space = True                 # between prompt and answer; the papers have none with OPT
loss_on_prompt = False              # eP-ALM: the question is learned, too
bad_rows = 'error'                  # 'skip': a file that cannot be read is left out, and listed
max_text_tokens = 50                # of a caption or answer
num_workers = 2
# feature cache: run the frozen encoder once over the data set
cache_features = False
cache_dir = 'data/cache'
cache_views = 1                     # 1 plain view of each training picture and this many - 1 augmented ones
cache_batch_size = 32
# optimisation (the papers')
batch_size = 16                     # inputs per micro step, over all processes
texts_per_input = 1                 # captions of an input that share its prefix in one step
group_lengths = False               # batches of texts of like length: less padding, but not quite the papers' random batches
accumulate = 1                      # micro steps per optimizer step; their gradients are summed, as in the papers' code
epochs = 8
max_iters = 0                       # optimizer steps, 0 = epochs
learning_rate = 8e-4
prompt_rate = 0.0                   # learning rate of the prompt tokens, 0 = learning_rate
prompt_schedule = True              # False (eP-ALM): that of the prompt tokens stays what it is
warmup = 0.2                        # of all steps, linear; then cosine
warmup_from = 0.0                   # of learning_rate, at its start; 0 = its first step's share
schedule_by = 'step'                # 'epoch' (eP-ALM): the rate changes with the epoch alone
warmup_epochs = 0                   # then, in place of warmup: stairs, of 100 steps each
min_lr = 1e-4                       # of learning_rate, at the end
weight_decay = 0.1
beta2 = 0.999
adam_eps = 1e-4
grad_clip = 0.8                     # 0 = none
label_smoothing = 2e-3
seed = 0
# system
out_dir = 'out/run'
init_from = 'scratch'               # 'scratch'; 'resume' out_dir's run; 'auto' = resume if there is one; or another run's out_dir
device = 'auto'                     # 'cpu', 'cuda', 'cuda:1', ...
dtype = 'auto'                      # 'float32', 'bfloat16' or 'float16' (with a scaler); auto = float32 on a CPU, on a GPU as the LLM was published
compile = False                     # torch.compile of the LLM's layers
shard_llm = False                   # FSDP: each process keeps a share of the frozen LLM, for one that is larger than a GPU
checkpoint_layers = False           # less memory for more time: the backward pass computes each LLM layer's activations again
# logging
log_interval = 10                   # steps
eval_interval = 100                 # steps between validation losses, samples and checkpoints
eval_rows = 500                     # at most, spread over the validation split
n_samples = 4                       # validation pictures described at every evaluation
eval_metric = 'loss'                # chooses the best checkpoint: 'loss', 'CIDEr' or 'accuracy'
eval_metric_rows = 200              # validation rows, spread over the split, it is computed on
eval_metric_beams = 1               # their texts are generated with; 1 = greedy
logger = 'none'                     # 'tensorboard' or 'wandb' as well
# what eval_caption.py and eval_vqa.py do unless told otherwise
test_checkpoint = 'best'            # or 'last', as DePALM
test_new_tokens = 0                 # at most, 0 = their own
encoder_join = 'tokens'             # of several encoders: their 'tokens' side by side, or their 'channels' patch by patch
globals().update(asdict(AdapterConfig()))
MORE_KNOBS = (adapters.__file__,)   # where --help finds what they mean
# ---------------------------------------------------------------------------------------------------------------------

MAY_DIFFER = {'init_from', 'device', 'num_workers', 'out_dir', 'log_interval', 'eval_interval', 'n_samples', 'logger', 'cache_dir', 'max_iters',
              'epochs', 'cache_batch_size', 'compile', 'shard_llm', 'checkpoint_layers', 'bad_rows', 'test_checkpoint', 'test_new_tokens'}    # knobs that do not change what a resumed run has done so far
AT_LEAST = dict.fromkeys(('batch_size', 'accumulate', 'texts_per_input', 'log_interval', 'eval_interval', 'eval_rows', 'max_text_tokens', 'cache_views',
                          'cache_batch_size', 'source_layers', 'mapper_heads', 'mapper_layers', 'n_queries', 'reduction', 'n_connectors',
                          'bottleneck_factor'), 1)
AT_MOST = dict.fromkeys(('label_smoothing', 'mapper_dropout', 'source_dropout', 'warmup', 'min_lr'), 1)
AT_LEAST |= dict.fromkeys((*AT_MOST, 'seed', 'epochs', 'max_iters', 'num_workers', 'n_samples', 'n_prompt', 'learning_rate', 'prompt_rate', 'grad_clip'), 0)
AT_LEAST |= dict.fromkeys(('warmup_epochs', 'warmup_from', 'test_new_tokens'), 0)
AT_MOST |= dict(warmup_from=1)
ONE_OF = dict(resize=('squash', 'squash_whole', 'pad', 'crop'), video_tokens=('all', 'mean'), source_tokens=('all', 'cls'), bad_rows=('error', 'skip'), norm=('rms', 'layer'),
              logger=('none', 'tensorboard', 'wandb'), activation=('gelu', 'none'), bottleneck=('none', 'normal', 'parallel', 'scaled'),
              bottleneck_at=('mlp', 'attention'), dtype=('auto', 'bfloat16', 'float16', 'float32'))
ONE_OF |= dict(schedule_by=('step', 'epoch'), test_checkpoint=('best', 'last'))

AT_LEAST |= dict(eval_metric_rows=2, eval_metric_beams=1)
ONE_OF |= dict(eval_metric=('loss', 'CIDEr', 'accuracy'))


def check(config):
    """Values that together would fail late, or worse, not at all."""
    tuned = config['encoder_bias_tuning'] or config['encoder_norm_tuning']
    wrong = ['cache_features=True: an encoder that is tuned cannot be cached'] * (config['cache_features'] and tuned)
    if config['adapter_dim'] % config['mapper_heads']:
        wrong.append(f'mapper_heads={config["mapper_heads"]} does not divide adapter_dim={config["adapter_dim"]}')
    try:
        config['instruction'].format(prompt='')
    except (KeyError, IndexError, ValueError) as e:
        wrong.append(f'instruction={config["instruction"]!r}: expected a text with {{prompt}} in it ({type(e).__name__}: {e})')
    if wrong:
        sys.exit('\n'.join(wrong))


def main(config):
    check(config)
    # -- processes, device, precision
    world, rank, local_rank = (int(os.environ.get(k, d)) for k, d in (('WORLD_SIZE', 1), ('RANK', 0), ('LOCAL_RANK', 0)))
    device, dtype = pick_device_and_dtype(config['device'], config['dtype'], config['llm'])
    if world > 1:
        device = f'cuda:{local_rank}' if device.startswith('cuda') else device
        dist.init_process_group('nccl' if device.startswith('cuda') else 'gloo')
    if device.startswith('cuda'):
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    if batch_size % world:
        sys.exit(f'batch_size={batch_size} is over all processes and must be a multiple of their number, {world}')
    is_main, wait = rank == 0, dist.barrier if world > 1 else lambda: None
    say = tqdm.write if is_main else lambda *args: None
    autocast = functools.partial(torch.autocast, device.split(':')[0], dtype=getattr(torch, dtype), enabled=dtype != 'float32')

    # -- data and models
    with contextlib.nullcontext() if is_main else contextlib.redirect_stdout(None):     # one process says what is left out
        rows = {split: load_examples(config, split) for split in ('train', 'val')}
    metric_rows = rows_to_score(rows['val'])
    rows['val'] = rows['val'][::-(-len(rows['val']) // eval_rows)]
    if row_per_caption:
        rows['train'] = split_captions(rows['train'])
    data = [rows, metric_rows] if metric_rows else rows
    config['data_digest'] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]         # to resume, the rows must be the same, too
    resuming = prepare_out_dir(config, is_main)
    wait()
    if shard_llm and not 1 < world <= len(rows['val']):
        sys.exit(f'shard_llm=True: expected torchrun with 2 processes or more, and a validation row for each; found {world} and {len(rows["val"])}')
    torch.manual_seed(seed)
    model, tokenizer = build(config, device, dtype, shard=shard_llm)
    for layer in model.decoder.layers:
        if checkpoint_layers:
            checkpoint_activations(layer)
        if compile:                                         # they share their graphs, which are much sooner compiled than the whole model's
            layer.compile()
    if init_from not in ('scratch', 'resume', 'auto'):
        donor = load_checkpoint(init_from, 'best', 'cpu', 'float32')[0].trained()
        if {n: p.shape for n, p in donor.items()} != {n: p.shape for n, p in model.trained().items()}:
            sys.exit(f'init_from={init_from!r}: its adapter has other tensors than this one; give the same connector, sizes and targets')
        model.load_state_dict(donor, strict=False)
    check_prompt_end(tokenizer, config, model.llm.get_input_embeddings().num_embeddings)
    texts = {split: tokenize_examples(rows[split], tokenizer, config) for split in rows}
    inputs = dict(train={}, val={})                         # blind: none
    for split in rows if encoder else ():
        if (shown := medium_of(rows[split][0])) != (medium := model.encoder.preprocessing.medium):
            raise BadData(f'dataset={dataset!r} has {shown} files, encoder={encoder!r} takes {medium} files'
                          + (': with --video_frames=8 or so it would see their frames' if (shown, medium) == ('video', 'image') else ''))
        inputs[split] = (dict(cache=feature_cache(rows[split], model.encoder, config, split, device, autocast, is_main, wait)) if cache_features
                         else dict(preprocessing=model.encoder.preprocessing))
    datasets = {split: ExampleDataset(rows[split], texts[split], config, train=split == 'train', **inputs[split]) for split in rows}
    if batch_size > len(datasets['train']):
        raise BadData(f'batch_size={batch_size} is more than the {len(datasets["train"])} inputs of the training split')

    # -- optimizer and schedule
    params = list(model.trained().values())
    groups = []
    for name, p in model.trained().items():
        is_prompt = name.startswith('adapter.prompt')
        rate = prompt_rate if is_prompt and prompt_rate else learning_rate
        groups.append(dict(params=[p], peak_rate=rate, scheduled=prompt_schedule or not is_prompt))
    optimizer = torch.optim.AdamW(groups, betas=(0.9, beta2), eps=adam_eps, weight_decay=weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.split(':')[0], enabled=dtype == 'float16')
    steps_per_epoch = len(datasets['train']) / (batch_size * accumulate)
    last_iter = max_iters or max(1, round(epochs * steps_per_epoch))
    step, best, window, logged = 0, math.inf, 0.0, 0        # window: the summed loss since the last log line, at step `logged`
    if eval_metric != 'loss':
        best = -math.inf
    if resuming:
        step, best, window, logged = restore(model, optimizer, scaler, device)
    say(f'{sum(p.numel() for p in params):,} trained parameters in {len(params)} tensors; {sum(p.numel() for p in model.llm.parameters()):,} frozen '
        f'in the LLM; {len(rows["train"])} training and {len(rows["val"])} validation rows; {last_iter} steps of {batch_size * accumulate} on '
        f'{world} x {device} in {dtype}')

    # -- batches
    keys = shuffled_batches(len(datasets['train']), batch_size, seed, first=step * accumulate, rank=rank, world=world,
                      length=datasets['train'].length if group_lengths else None)
    pad = functools.partial(collate, pad_id=tokenizer.pad_token_id)
    loader_options = dict(collate_fn=pad, num_workers=num_workers if encoder and not cache_features else 0, pin_memory=device.startswith('cuda'))

    left_out = {}                                           # what is wrong with the files that could not be read, as keys

    def load(split, keys):
        """Batches of these keys on the device, and how many labels they have. Raises BadData for a file that cannot be read, or notes it."""
        for batch, errors in torch.utils.data.DataLoader(datasets[split], batch_sampler=keys, **loader_options):
            if errors and bad_rows == 'error':
                report_bad(errors, config)
            left_out.update(dict.fromkeys(errors))
            n_labels = (batch['labels'] != -100).sum()
            for key in ('input_ids', 'pixels', 'features'):         # labels stay: counting them then waits for no GPU
                if key in batch:
                    tensor = torch.as_tensor(batch[key])
                    if device.startswith('cuda') and not tensor.is_pinned():
                        tensor = tensor.pin_memory()                # else the copy to the GPU would be waited for
                    batch[key] = tensor.to(device, non_blocking=True)
            yield batch, n_labels

    ddp = model
    if world > 1:
        DDP._set_params_and_buffers_to_ignore_for_model(model, [n for n, t in model.state_dict(keep_vars=True).items() if not t.requires_grad])
        ddp = DDP(model)                                    # no device_ids: it would move the labels to the GPU

    def diverged(what, value):
        sys.exit(f'step {step}: the {what} is {value}. The last checkpoint in {out_dir} is from before; a lower learning_rate or grad_clip may help')

    @torch.no_grad()
    def validate():
        """Mean loss over the labels of the validation rows, in plain view."""
        model.eval()
        mine, n_batches = range(rank, len(rows['val']), world), -(-len(rows['val']) // (world * batch_size))     # in every process as many
        total = torch.zeros(2, device=device)               # loss, labels
        for batch, n in load('val', [[(0, i) for i in mine[b::n_batches]] for b in range(n_batches) if mine[b::n_batches]]):
            with autocast():
                total += torch.stack([model(**batch).float() * n, n.to(device)])
        model.train()
        total = sum_over_processes(total, world, device)
        return (total[0] / total[1]).item()

    def generate_and_score():
        """{eval_metric: its value x 100} of texts generated for the rows to score, the same in all
        processes, each of which generates its share; {} for the loss."""
        if not metric_rows:
            return {}
        # an LLM that is shared runs in all processes or in none
        sharing = world > 1 and not shard_llm
        own = metric_rows[rank::world] if sharing else metric_rows
        model.eval()
        texts = generate_texts(model, tokenizer, config, own, batch_size, progress=False,
                              num_beams=eval_metric_beams, max_new_tokens=max_text_tokens)
        model.train()
        if sharing:
            shares = [None] * world
            dist.all_gather_object(shares, texts)
            texts = [shares[i % world][i // world] for i in range(len(metric_rows))]
        return {eval_metric: score_texts(metric_rows, texts)}

    @torch.compiler.set_stance('force_eager')               # what runs once in a while is not worth compiling
    def evaluate():
        """Validation loss and score, samples, checkpoints, loss curve."""
        nonlocal best, window
        val_loss = validate()
        if not math.isfinite(val_loss):
            diverged('validation loss', val_loss)
        window = sum_over_processes(window, world, device) / world             # so that resume.pt holds everybody's
        scores = generate_and_score()
        value = scores.get(eval_metric, val_loss)
        better = is_better(value, best)
        shown, captions = rows['val'][:n_samples], []
        if shown and (is_main or shard_llm):                    # an LLM that is shared runs in all processes or in none
            model.eval()
            captions = generate_texts(model, tokenizer, config, shown, batch_size=len(shown), progress=False, max_new_tokens=20)
            model.train()
        if better:
            best = value
        if not is_main:
            return
        score = f', {eval_metric} {value:.2f}' if scores else ''
        say(f'step {step}: validation loss {val_loss:.4f}{score}' + (' (best)' if better else ''))
        for row, caption in zip(shown, captions):
            say(f'    {caption or ""}   <- {target_texts(row)[0]}')
        record(dict(iter=step, val_loss=val_loss, **scores, samples=captions))
        state = dict(step=step, best=best, window=window, logged=logged, trained=model.trained(),
                     optimizer=optimizer.state_dict(), scaler=scaler.state_dict())
        for which in ('best', 'last') if better else ('last',):
            save_adapter(f'{out_dir}/{which}.safetensors', model.trained(), config, iter=step,
                         val_loss=val_loss, **scores)
        write_atomically(f'{out_dir}/resume.pt', lambda path: torch.save(state, path))
        draw_losses(out_dir)

    def record(entry):
        with open(f'{out_dir}/metrics.jsonl', 'a', encoding='utf-8') as f:
            f.write(json.dumps(entry) + '\n')
        if log:
            log({k: v for k, v in entry.items() if isinstance(v, (int, float))}, entry['iter'])

    # -- training
    log = make_logger(logger, out_dir, config) if is_main else None
    model.train()
    peak_flops = find_peak_flops(device, dtype)
    bar = tqdm(total=last_iter, initial=step, disable=not is_main or not sys.stderr.isatty(), unit='step', **BAR)   # a log line has the ETA, too
    batches = load('train', keys)
    began, timed, tokens, flops = time.time(), step, 0, 0.0     # timed: the step at which `began` was
    if not resuming:
        evaluate()
    while step < last_iter:
        for group in optimizer.param_groups:
            factor = schedule(step, last_iter, steps_per_epoch) if group['scheduled'] else 1.0
            group['lr'] = group['peak_rate'] * factor
        for micro in range(accumulate):
            batch, n_labels = next(batches)
            torch.manual_seed(seeded(seed, step, micro, rank) % 2**63)      # dropout, R-Rand: a function of the step, so resuming is exact
            share = n_labels.to(device) / sum_over_processes(n_labels, world, device) * world       # of all labels: the loss is their mean
            with contextlib.nullcontext() if micro == accumulate - 1 or world == 1 else ddp.no_sync(), autocast():
                loss = ddp(**batch, label_smoothing=label_smoothing) * share
                scaler.scale(loss).backward()
            window = window + loss.detach() / accumulate
            tokens += batch['labels'].numel()
            flops += training_flops(model, *batch['labels'].shape, n_labels.item())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, grad_clip or math.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        if step % log_interval == 0 or step == last_iter:
            window = sum_over_processes(window, world, device) / world
            loss, steps, seconds = float(window) / (step - logged), step - timed, (time.time() - began) / (step - timed)
            if not math.isfinite(loss):
                diverged('loss', loss)
            if is_main:
                entry = dict(iter=step, epoch=step / steps_per_epoch, loss=loss, lr=learning_rate * schedule(step - 1, last_iter, steps_per_epoch), ms=seconds * 1e3,
                             samples_per_s=batch_size * accumulate / seconds, tokens_per_s=tokens * world / steps / seconds,
                             mfu=flops / steps / seconds / peak_flops, peak_gb=peak_memory(device))
                say(f'iter {step}/{last_iter}: epoch {entry["epoch"]:.2f}, loss {loss:.4f}, lr {entry["lr"]:.1e}, {entry["ms"]:.0f} ms, '
                    f'{entry["samples_per_s"]:.1f} samples/s, {entry["tokens_per_s"]:.0f} tok/s, mfu {entry["mfu"]:.0%}, '
                    f'{entry["peak_gb"]:.1f} GB, ETA {time.strftime("%H:%M:%S", time.gmtime(seconds * (last_iter - step)))}')
                record(entry)
            window, logged, tokens, flops = 0.0, step, 0, 0.0
            began, timed = time.time(), step
        if step % eval_interval == 0 or step == last_iter:
            paused = time.time()
            evaluate()
            wait()
            began += time.time() - paused
    bar.close()
    if left_out:
        report_bad(left_out, config)                        # every process its own
    say(f'trained: best validation {eval_metric} {best:.4f}; {out_dir}/best.safetensors')
    if world > 1:
        dist.destroy_process_group()


# ---- the parts ------------------------------------------------------------------------------------------------------

def prepare_out_dir(config, is_main):
    """True to resume. A run that is already there is never overwritten, nor continued with other knobs or data."""
    there = [f for f in ('resume.pt', 'best.safetensors', 'last.safetensors') if os.path.exists(f'{out_dir}/{f}')]
    if init_from == 'resume' and 'resume.pt' not in there:
        sys.exit(f'{out_dir}/resume.pt: nothing to resume')
    resuming = 'resume.pt' in there and init_from in ('resume', 'auto')
    if there and not resuming:
        sys.exit(f'{out_dir} holds a run ({", ".join(there)}): --init_from=resume continues it, another --out_dir leaves it alone, or remove it')
    was = json.loads(Path(f'{out_dir}/config.json').read_text(encoding='utf-8')) if resuming else {}
    if was:
        was.setdefault('eval_metric', 'loss')               # runs of before this knob
    differ = ', '.join(f'{k}={v!r}, now {config.get(k)!r}' for k, v in was.items() if config.get(k) != v and k not in MAY_DIFFER)
    if differ:
        sys.exit(f'{out_dir} was trained with other knobs or data: {differ}. Give the same (data_digest is of the rows and their paths), or another --out_dir')
    if is_main:
        os.makedirs(out_dir, exist_ok=True)
        write_atomically(f'{out_dir}/config.json', lambda path: Path(path).write_text(json.dumps(config, indent=1), encoding='utf-8'))
        if not resuming:
            Path(f'{out_dir}/metrics.jsonl').unlink(missing_ok=True)
    return resuming


def rows_to_score(rows):
    """Returns the validation rows whose texts are scored at every evaluation, all captions of a
    picture in one; none if eval_metric is the loss. Raises BadData if it cannot score them."""
    if eval_metric == 'loss':
        return []
    kind = 'caption' if eval_metric == 'CIDEr' else 'question'
    if any(kind not in row for row in rows):
        raise BadData(f'eval_metric={eval_metric!r}: there are validation rows of '
                      f'dataset={dataset!r} without a {kind}; CIDEr is of captions, accuracy of '
                      f'answers to questions')
    if eval_metric == 'CIDEr':
        rows = merge_captions(rows)
    return spread_examples(rows, eval_metric_rows)


def score_texts(rows, texts):
    """Returns eval_metric x 100 of a generated text for each row, None where its file could not be
    read. Answers are scored by the official rule of the data set."""
    from nanopalm.scores import default_rule, score_answers, score_captions
    kept = [i for i, text in enumerate(texts) if text is not None]
    if not kept:
        raise BadData('eval_metric: none of the files of the rows to score can be read')
    rows = [rows[i] for i in kept]
    texts = [texts[i] for i in kept]
    if eval_metric == 'CIDEr':
        return score_captions([row['caption'] for row in rows], texts)[0]['CIDEr']
    return score_answers(rows, texts, default_rule(dataset, rows))[0]['accuracy']


def is_better(value, best):
    """Whether an evaluation is the best so far: a lower loss, or a score that is no lower, since
    of checkpoints that score alike the one trained longer is preferred."""
    return value < best if eval_metric == 'loss' else value >= best


def restore(model, optimizer, scaler, device):
    """Continue out_dir's run: weights, optimizer, scaler; returns (step, best loss, loss window). Later log entries are dropped."""
    try:
        state = torch.load(f'{out_dir}/resume.pt', map_location=device, weights_only=True)
    except Exception as e:
        sys.exit(f'{out_dir}/resume.pt is not whole ({str(e).splitlines()[0]})')
    with torch.no_grad():
        for name, p in model.trained().items():
            p.copy_(state['trained'][name])
    optimizer.load_state_dict(state['optimizer'])
    scaler.load_state_dict(state['scaler'])
    if int(os.environ.get('RANK', 0)) == 0 and os.path.exists(f'{out_dir}/metrics.jsonl'):
        lines = Path(f'{out_dir}/metrics.jsonl').read_text(encoding='utf-8').splitlines(keepends=True)
        kept = [line for line in lines if line.endswith('\n') and json.loads(line)['iter'] <= state['step']]
        write_atomically(f'{out_dir}/metrics.jsonl', lambda path: Path(path).write_text(''.join(kept), encoding='utf-8'))
        print(f'resuming {out_dir} at step {state["step"]}')
    return state['step'], state['best'], state['window'], state['logged']


def sum_over_processes(x, world, device):
    """The same number everywhere."""
    x = torch.as_tensor(x, device=device).clone()
    if world > 1:
        dist.all_reduce(x)
    return x


def schedule(step, last, steps_per_epoch):
    """Returns the factor of the learning rate: linear warmup, then cosine to min_lr."""
    if schedule_by == 'epoch':
        return epoch_schedule(step, steps_per_epoch)
    ramp = warmup * last
    if step >= ramp:
        return cosine((step - ramp) / max(1, last - ramp))
    if warmup_from:
        return warmup_from + (1 - warmup_from) * step / ramp
    return (step + 1) / ramp if ramp > 1 else 1.0


def epoch_schedule(step, steps_per_epoch):
    """Returns the factor as eP-ALM's code sets it: on a cosine over the epochs that moves at the
    start of each. Its warm-up takes a hundred steps for an epoch, and so is over in the first."""
    epoch = int(step / steps_per_epoch)
    stair = max(step - 1, 0) // 100
    if epoch == 0 and stair < warmup_epochs:
        return warmup_from + (1 - warmup_from) * stair / warmup_epochs
    return cosine(epoch / max(1, epochs))


def cosine(progress):
    """Returns the factor of the learning rate at a progress of 0 (1) to 1 (min_lr)."""
    return min_lr + (1 - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


if __name__ == '__main__':
    config = configure(globals(), show_changes=True)
    try:
        main(config)
    except (BadData, FileNotFoundError, ValueError, ImportError) as e:
        sys.exit(str(e))
    except OSError as e:
        sys.exit(f'{e}: checkpoints in {out_dir} are those of the last step that could be saved')
    except KeyboardInterrupt:
        sys.exit('interrupted; --init_from=resume continues from the last checkpoint')
