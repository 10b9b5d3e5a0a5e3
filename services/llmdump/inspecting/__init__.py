"""`llmdump inspect`, without its reading of files and its printing: what capture files of several formats have in common."""
