"""Volume files of any format as arrays with their geometry."""
