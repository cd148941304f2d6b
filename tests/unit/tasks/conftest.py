import os

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network
torch.set_num_threads(1)  # tiny models: threads only get in each other's way
