"""The dashboard `mnemosyne-dash`: it follows one view of the fleet and shows it in the terminal. It decides nothing."""
