"""What names, firms, places and addresses are put together from, besides the package's word lists."""

from __future__ import annotations

TITLES = ("mr", "mrs", "ms", "dr", "miss", "prof", "mr.", "mrs.", "dr.")
DEGREES = ("md", "phd", "jr", "rn", "jr.", "iii", "esq", "m.d.")
PARTICLES = (
    "van", "van der", "de", "von", "di", "da", "el", "al", "de la", "del", "bin", "le", "ten", "van den",
    "dos", "mac", "st", "den", "abu", "of",
)  # fmt: skip
FIRM_WORDS = (
    "systems", "solutions", "technologies", "technology", "labs", "health", "data", "media", "partners",
    "insurance", "capital", "group", "holdings", "services", "networks", "energy", "foods", "motors",
    "airlines", "robotics", "software", "design", "studio", "studios", "consulting", "analytics",
    "pharma", "logistics", "financial", "bank", "trust", "club", "international", "global", "research",
    "sciences", "biosciences", "security", "interactive", "digital", "ventures", "works", "industries",
    "brothers", "press", "records", "university", "college", "hospital", "clinic", "institute", "school",
    "foundation", "association", "council", "society", "union", "museum", "church", "pharmacy", "surgery",
    "medical center", "health centre", "family practice", "general hospital", "memorial hospital",
    "care home", "law", "legal", "cafe", "restaurant", "hotel", "bar", "kitchen", "bakery", "market",
    "stores", "express", "online", "app", "mobile", "telecom", "wireless", "credit union", "mutual",
    "life", "learning", "education", "travel", "realty", "properties", "construction", "environmental",
    "department", "ministry", "authority", "agency", "federation", "company", "corporation", "report",
    "times", "news", "world", "today", "watch", "intelligence", "innovations", "dynamics", "engineering",
    "entertainment", "productions", "gallery", "academy", "nursery", "dental", "van lines", "movers",
    "mutual insurance company", "web services", "support services", "wealth management", "building society",
    "lets", "lettings", "parking", "advice", "housing", "homes", "taxis", "cabs", "cars", "storage", "claims",
    "cleaners", "cleaning", "plumbing", "heating", "roofing", "vets", "opticians", "dentists", "gym", "fitness",
    "tavern", "arms", "inn", "cinema", "theatre", "primary", "primary school", "high school", "high", "fc", "united",
    "rovers", "rugby club", "city council", "borough council", "county council", "council", "court", "prison",
    "ambulance service", "fire service", "police", "nhs trust", "hospice", "care", "nursing home", "day centre",
    "resource centre", "community centre", "converters", "debt advice", "water", "electric", "gas", "power",
    "broadband", "car hire", "garage", "tyres", "autos", "travel agents", "tours", "cruises", "lodge", "house",
    "court hotel", "estates", "estate agents", "solicitors", "accountants", "recruitment", "staffing", "logistics",
    "haulage", "removals", "couriers", "post office", "depot", "chapel", "parish", "mosque", "temple", "ministries",
    "credit", "finance", "loans", "savings", "pensions", "benefits office", "job centre", "labs", "imaging",
    "diagnostics", "eye clinic", "walk in centre", "birth centre", "ward", "unit", "annexe", "wing",
)  # fmt: skip
LEGAL = (
    "inc", "ltd", "llc", "plc", "gmbh", "corp", "co", "ag", "inc.", "ltd.", "limited", "s.a.", "bv", "ab",
    "oy", "as", "sarl", "srl", "spa", "nv", "pty ltd", "s.r.l.", "s.a.r.l.", "a.s.", "kg", "and sons",
    "& sons", "& co", "group", "sp. z o.o.", "kft", "& partner", "und söhne", "et fils", "e figli",
)  # fmt: skip
BRANDS = (
    "google", "amazon", "apple", "microsoft", "facebook", "meta", "netflix", "uber", "lyft", "airbnb", "tesla",
    "ford", "toyota", "honda", "bmw", "nike", "adidas", "puma", "zara", "ikea", "walmart", "target", "costco",
    "kroger", "aldi", "lidl", "tesco", "asda", "boots", "next", "shell", "bp", "exxon", "chevron", "total",
    "visa", "mastercard", "paypal", "stripe", "square", "revolut", "monzo", "wise", "klarna", "chase",
    "citibank", "hsbc", "barclays", "lloyds", "santander", "ing", "rabobank", "ubs", "goldman sachs",
    "morgan stanley", "wells fargo", "bank of america", "capital one", "american express", "aetna", "cigna",
    "anthem", "humana", "kaiser permanente", "united healthcare", "blue cross", "medicare", "bupa", "axa",
    "aviva", "allianz", "zurich", "geico", "progressive", "allstate", "pfizer", "merck", "novartis", "roche",
    "bayer", "moderna", "gsk", "samsung", "sony", "panasonic", "nokia", "ericsson", "siemens", "bosch",
    "philips", "sap", "oracle", "ibm", "intel", "amd", "nvidia", "cisco", "dell", "hp", "lenovo", "adobe",
    "salesforce", "twitter", "tiktok", "instagram", "whatsapp", "zoom", "slack", "spotify", "ebay", "etsy",
    "fedex", "ups", "dhl", "usps", "royal mail", "hermes", "british airways", "lufthansa", "klm", "ryanair",
    "easyjet", "delta", "united", "marriott", "hilton", "starbucks", "subway", "mcdonalds", "burger king",
    "pepsi", "coca cola", "nestle", "unilever", "danone", "kelloggs", "bbc", "cnn", "fox", "nbc", "disney",
    "the guardian", "the times", "reuters", "bloomberg", "nasa", "nhs", "fbi", "cia", "who", "unicef", "un",
    "eu", "nato", "red cross", "oxfam", "greenpeace", "nyu", "mit", "ucla", "lse", "harvard", "stanford",
    "deloitte", "pwc", "kpmg", "ey", "mckinsey", "accenture", "canon", "nikon", "kodak", "xerox", "lego",
    "at&t", "verizon", "vodafone", "orange", "t-mobile", "ee", "o2", "three", "comcast", "sky", "virgin media",
    "b&q", "h&m", "c&a", "m&s", "j&j", "p&g", "3m", "7-eleven", "e.on", "edf", "bt",
)  # fmt: skip
STREET_ENDINGS = (
    "street", "st", "road", "rd", "avenue", "ave", "lane", "drive", "court", "place", "square", "close",
    "way", "terrace", "crescent", "highway", "boulevard", "hill", "park", "gardens", "row", "view", "walk",
    "green", "grove", "mews", "loop", "trail", "circle", "ridge", "run", "plaza", "keys", "union", "villages",
    "fall", "cliff", "islands", "vista", "station", "fields", "bypass", "junction", "knoll", "hollow", "ports",
)  # fmt: skip
STREET_STARTS = (
    "rue", "avenue", "via", "calle", "rua", "piazza", "viale", "corso", "plaza", "avenida", "ul.", "ulica",
    "boulevard", "chemin", "place", "largo", "travessa", "vicolo", "impasse", "camino", "paseo", "strada",
    "am", "an der", "platz", "al.", "os.", "rue de", "rue du", "rua do", "calle de la", "via dei", "borgo",
    "canale", "incrocio", "rotonda", "callejón", "pasaje", "cuesta", "ronda", "circuito", "privada",
    "prolongación", "retorno", "callejon", "stretto", "contrada", "k", "na", "u",
)  # fmt: skip
STREET_TAILS = (
    "straat", "strasse", "straße", "str.", "weg", "gasse", "laan", "plein", "gatan", "gade", "vej", "veien",
    "katu", "tie", "ring", "platz", "allee", "dijk", "gracht", "kade", "vägen", "polku", "hof", "kuja", "singel",
)  # fmt: skip
UNITS = (
    "apt.",
    "apt",
    "suite",
    "unit",
    "flat",
    "no.",
    "room",
    "floor",
    "lgh",
    "depto.",
    "appartamento",
    "bldg",
)
REGIONS = (
    "ca", "ny", "tx", "on", "qc", "or", "in", "me", "pa", "ma", "fl", "nsw", "wa", "qld", "sr", "zh", "by",
    "so", "no", "ta", "qa", "mi", "al", "bc", "ab", "hi", "sn", "sc", "ok", "oh", "la", "id", "mo", "de",
)  # fmt: skip
LONG_COUNTRIES = (
    "united states of america", "people's republic of china", "democratic republic of the congo", "holy see",
    "saint vincent and the grenadines", "trinidad and tobago", "bosnia and herzegovina", "papua new guinea",
    "republic of ireland", "russian federation", "united arab emirates", "turks and caicos islands",
    "antigua and barbuda", "sao tome and principe", "central african republic", "republic of korea",
    "isle of man", "cote d'ivoire", "saudi arabia", "new zealand", "south africa", "sri lanka", "costa rica",
    "the netherlands", "the united kingdom", "the united states", "the bahamas", "the gambia", "usa", "uk",
)  # fmt: skip
PLACE_WORDS = (
    "bath", "reading", "nice", "mobile", "orange", "split", "hope", "stains", "dole", "tours", "buffalo",
    "phoenix", "cork", "hull", "lima", "turkey", "chad", "china", "jordan", "mali", "georgia", "brest", "como",
    "bari", "essen", "bend", "troy", "paradise", "normal", "eureka", "rugby", "deal", "sandwich", "battle",
    "ware", "wells", "rye", "looe", "street", "march", "diss", "bury", "barking", "poole", "march", "epping",
)  # fmt: skip
RELATIVES = (
    "wife", "husband", "son", "daughter", "mother", "father", "mum", "mom", "dad", "brother", "sister", "aunt",
    "uncle", "cousin", "niece", "nephew", "partner", "friend", "neighbour", "boss", "colleague", "roommate",
    "grandson", "granddaughter", "grandmother", "girlfriend", "boyfriend", "ex", "landlord", "stepson",
)  # fmt: skip
JOBS = (
    "accountant", "plumber", "teacher", "nurse", "manager", "director", "engineer", "lawyer", "cashier",
    "consultant", "developer", "baker", "driver", "analyst", "clerk", "physiotherapist", "head of sales",
    "chief executive", "human resources officer", "project manager", "marketing assistant", "painter",
    "customer care", "team lead", "electrician", "research fellow", "branch manager", "cook", "registrar",
    "systems analyst", "family doctor", "police officer", "telephone operator", "legal counsel", "pilot",
)  # fmt: skip

LEARNED_STARTS = (
    "peri", "endo", "hyper", "hypo", "inter", "intra", "supra", "sub", "post", "pre", "anti", "non-", "para",
    "trans", "extra", "poly", "mono", "epi", "retro", "micro", "macro", "auto", "bi", "dys", "re",
)  # fmt: skip
LEARNED_STEMS = (
    "cardi", "neur", "gastr", "hepat", "nephr", "oste", "arthr", "derm", "my", "hem", "leuk", "lymph", "gli",
    "mening", "pharyng", "bronch", "pulmon", "ven", "arteri", "angi", "cyst", "col", "enter", "thyr", "aden",
    "carcin", "sarc", "fibr", "scler", "thromb", "isch", "embol", "cerebr", "spin", "vertebr", "ocul", "retin",
    "ot", "rhin", "laryng", "trache", "thorac", "abdomin", "pelv", "uter", "ovari", "prostat", "ren", "ureth",
    "vesic", "omepr", "metopr", "atorv", "lisin", "amlod", "cef", "amox", "azithr", "clopid", "warf", "gabap",
    "sertr", "fluox", "quet", "loraz", "morph", "oxyc", "ibupr", "diclof", "predn", "dexameth", "insul",
)  # fmt: skip
LEARNED_ENDINGS = (
    "itis", "osis", "oma", "omas", "emia", "opathy", "ectomy", "otomy", "oscopy", "ology", "ography", "ogram",
    "algia", "oplasty", "oplasia", "uria", "ic", "al", "ary", "ous", "ogenic", "olytic", "ovascular", "olol",
    "opril", "azole", "statin", "mycin", "icillin", "ine", "in", "ide", "ate", "one", "am", "pine", "axin",
    "otoxicity", "ogenesis", "ation", "ational", "ability", "ization", "ized", "oid", "ocytes", "ocytic",
)  # fmt: skip

ADJECTIVE_ENDINGS = frozenset(
    (
        "al",
        "ic",
        "ve",
        "ed",
        "us",
        "nt",
        "ry",
        "le",
        "ue",
        "rm",
        "ld",
        "rd",
        "ng",
        "ht",
        "ll",
        "en",
        "te",
        "an",
    )
)
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
