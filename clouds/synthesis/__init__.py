"""Generation and refinement of datasets: manifests, filters, embedding cache, engines."""
