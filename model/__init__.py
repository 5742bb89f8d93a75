"""What a detector is: normalisation, encoder, features, classifier, templates and bundle."""
