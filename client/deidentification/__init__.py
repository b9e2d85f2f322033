"""Finding and replacing what identifies people, before anything is stored."""

import os

# Presidio's e-mail recogniser asks tldextract for domains, which would fetch the Public Suffix List
# from the Internet when it is first used: a site asks nobody, and what is found does not depend on
# the day. The list that comes with the package is used. Read when tldextract is imported.
os.environ["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] = ""

# The language model multiplies small matrices: threads within a process cost more than they bring,
# and a process for each core reads faster. Read when NumPy is imported; whoever set it is heard.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
