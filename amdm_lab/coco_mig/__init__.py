"""COCO-MIG: things in their boxes in their colours, as the paper's Table 1 counts them."""
