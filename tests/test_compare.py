"""compare.py on tiny models: every mechanism has a row, one that fails says why, and a second run does nothing again."""
import json

from conftest import flags


def test_compare(llm, encoder, pictures, run, tmp_path):
    out = tmp_path / 'compare'
    config = tmp_path / 'tiny.py'
    config.write_text('\n'.join(f'{k} = {v!r}' for k, v in dict(
        llm=str(llm), encoder=str(encoder), dataset=str(pictures), device='cpu', dtype='float32', batch_size=8, max_iters=2, eval_interval=2,
        num_workers=0, n_samples=0, cache_dir=str(tmp_path / 'cache')).items()))
    knobs = flags(compare_dir=out, mechanisms='limber_1,r_linear,qp_inner', adapter_dim=32, mapper_heads=4)     # 4 sources of 2 blocks: fails
    table = run('tools/compare.py', config, *knobs)
    runs = json.loads((out / 'compare.json').read_text())
    assert set(runs) == {'blind-0', 'limber_1-0', 'r_linear-0', 'qp_inner-0'}
    assert runs['limber_1-0']['parameters'] == 48 * 64 + 64 and runs['r_linear-0']['iters'] == 2
    assert 'source_layers=4' in runs['qp_inner-0']['failed'] and 'qp_inner (seed 0) | failed' in table
    assert (out / 'compare.png').stat().st_size and table.rstrip().endswith((out / 'compare.md').read_text().rstrip())
    before = (out / 'r_linear-0/best.safetensors').stat().st_mtime_ns
    assert '>>> python train.py' in (again := run('tools/compare.py', config, *knobs)) and again.count('>>>') == 1     # the one that failed
    assert (out / 'r_linear-0/best.safetensors').stat().st_mtime_ns == before
