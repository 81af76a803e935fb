"""Owns llama.cpp: the only importers of `llama_cpp`; a loaded model, its cache and samplers."""
