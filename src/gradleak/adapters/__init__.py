"""Other packages' models, data and clients in the words of this one; whatever is optional is imported when used."""
