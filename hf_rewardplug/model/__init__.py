"""The model's side: loading, the pad token, the fp32 reward head and the forward that scores positions."""
