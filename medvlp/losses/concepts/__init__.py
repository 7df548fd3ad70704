"""What a visual is known to show, concept by concept: knowledge in the objective."""
