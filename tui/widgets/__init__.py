"""What is drawn on: one Line-API widget. DataTables and Sparklines cannot keep up with 64 ranks at 4 Hz."""
