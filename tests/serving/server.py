bundled_server = None
