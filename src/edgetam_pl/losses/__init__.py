"""What a clip costs: mask losses, distillation, and their sum."""
