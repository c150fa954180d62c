"""The stages (profile, train, analyse, deploy) and the commands around them, a module each."""
