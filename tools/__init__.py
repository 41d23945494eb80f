"""Tools beside the training: `python -m tools.bench` and others."""

import nanopalm  # noqa: F401  (first: says how torch's threads wait)

# the config files of config/mechanism/ that tools.bench and tools.compare take by default
MECHANISMS = (
    'qp_l0,qp_inner,r_avgpool,r_linear,r_qpmapper,r_rand,c_attn,mapl,limber_all,limber_1,epalm,'
    'epalm_opt'
)
