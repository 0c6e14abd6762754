"""What a day looked like, kept as a profile; how that differs from before; and what labels say of it later."""
