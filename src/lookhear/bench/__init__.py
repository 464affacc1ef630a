"""How fast this machine is at each link of the chain, every figure beside the plain form in the same run."""
