"""How sums are computed: exact float32, faster ways on CPUs and on cards, torch.compile."""
