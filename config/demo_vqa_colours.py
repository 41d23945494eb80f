# The second half of the demo of questions. After config/demo_vqa.py it knows which shapes are
# there, and takes some colours for others: brown for red, gray for black. Now two thirds of the
# questions are of yes or no about a colour, with smaller rates. In the official ones a colour that
# is there is so rare that it learns to deny it.
#   python train.py config/demo_vqa.py config/demo_vqa_colours.py
dataset = 'data/easy_vqa_colours'
out_dir = 'out/demo_vqa_colours'
start_from = 'out/demo_vqa'

learning_rate = 3e-3
muon_rate = 0.02
max_iters = 200
eval_interval = 100
