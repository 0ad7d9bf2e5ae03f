"""A backup: everything that a clone of the repository lacks to serve the champion.

    <remote>/dvc/files/md5/…      what DVC keeps, laid out as a DVC remote: `dvc pull` can read it
    <remote>/files/<xx>/<sha256>  decision records, dvc.lock, MLflow's database and artifacts
    <remote>/backups/<id>.json    a backup: the SHA-256 of each of its files, written last

Files are named by what is in them, so a second backup sends what is new, and a backup that died
halfway is continued by the next. Nothing is ever deleted there.
"""
