"""What a trained reward model is worth: scores of prompts and completions, benchmarks, reports."""
