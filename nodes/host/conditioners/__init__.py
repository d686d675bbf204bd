"""What makes the conditioning of models that attend to it: tables of classes, encoders of texts."""
