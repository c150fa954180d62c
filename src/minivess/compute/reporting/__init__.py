"""What a plan costs and why, for people to read; decides no weight."""
