# The second half of the demo of questions. After config/demo_vqa.py it compares what is asked with
# what is there; now it meets the questions as they are asked, most of them about a colour or a
# shape that is not there.
#   python train.py config/demo_vqa.py config/demo_vqa_official.py
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa_official'
start_from = 'out/demo_vqa'

learning_rate = 3e-3
muon_rate = 0.02
max_iters = 120
eval_interval = 120
