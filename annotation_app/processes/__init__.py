"""What starts and stops the platform's processes on one machine."""
