"""Commands: the application. Each module holds one command as a function whose parameters are the options of the command line."""
