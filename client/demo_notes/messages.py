"""What people write to a hospital or a bank: sentences by topic, to be put together.

The topics are the same for both, so that one model can route the messages of all sites. Slots in
braces are filled by `client.demo_notes.writing`; what identifies somebody is then known.
"""

from __future__ import annotations

from enum import StrEnum


class Profile(StrEnum):
    """Whose messages."""

    HOSPITAL = "hospital"
    BANK = "bank"


LABELS = (
    "access",
    "appointment",
    "billing",
    "complaint",
    "coverage",
    "details",
    "documents",
    "renewal",
)
"""The topics, sorted."""

REQUESTS: dict[Profile, dict[str, tuple[str, ...]]] = {
    Profile.HOSPITAL: {
        "appointment": (
            "I need to move my appointment with Dr {other_family} on {date} to another day",
            "can I book a follow-up visit at the {clinic} clinic",
            "please cancel my {clinic} appointment on {date}, I will be away",
            "is there an earlier slot for my {exam}, the one on {date} is too late",
            "I was told to arrange a check-up after my operation but nobody has "
            "rung me to fix a time",
            "what time should I arrive for the {exam} on {date}",
            "I cannot come on {date}, please offer me a new time",
            "I would rather have a telephone consultation than come in for the visit",
            "could my visit to {clinic} be in the late afternoon because of work",
            "please put me on the waiting list in case another patient cancels a {clinic} slot",
        ),
        "billing": (
            "I was charged {amount} for the {exam} and I do not understand the invoice",
            "the bill for my stay lists a {exam} that I never had",
            "I paid the invoice of {amount} twice, please refund one payment",
            "can I pay the {amount} in instalments",
            "your reminder says {amount} is overdue but I paid it on {date}",
            "why is there a fee of {amount} for a visit that was cancelled",
            "please send me a breakdown of the charges from the {clinic} ward",
            "the parking charge of {amount} was taken from my card by mistake",
            "the price I was quoted for the {exam} was lower than the invoice",
        ),
        "complaint": (
            "I waited four hours in {clinic} and nobody told us what was going on",
            "the nurse on the {clinic} ward was very rude to my mother",
            "I want to complain about how Dr {other_family} spoke to me",
            "the room was dirty and my meals were cold for three days",
            "this is the third time you lose my referral, it is not acceptable",
            "I am unhappy with the way my discharge was handled on {date}",
            "nobody listened when I said that I was in pain, I expect an apology",
            "the receptionist hung up on me twice and I wish to make a formal complaint",
            "your staff talked about my condition in the corridor where everybody could hear",
        ),
        "coverage": (
            "does my insurance policy {policy} cover the {exam}",
            "my insurer says that you never sent the pre-authorisation for the {exam}",
            "is the {clinic} clinic within my plan's network",
            "I changed insurers, the new policy number is {policy}, will it "
            "still pay for the treatment",
            "the claim for my {exam} was rejected by the insurance, what can I do",
            "who do I ask whether physiotherapy is covered by my health plan",
            "my employer's scheme ended, am I still insured for the operation on {date}",
            "please tell me what share of the {exam} my insurer pays and what I must pay myself",
        ),
        "details": (
            "I have moved, my new address is {address}",
            "please change the phone number on my file to {phone}",
            "I got married and my surname is now {family}, please correct my record",
            "my date of birth is wrong on your letters, it should be {born}",
            "please use {email} for letters from now on",
            "the next of kin on my record should be {other}, reachable on {phone}",
            "you spell my name wrong, it is {name}",
            "my GP has changed, please update my file, the new one is Dr {other_family}",
        ),
        "documents": (
            "can you send me the results of my {exam} from {date}",
            "I need a copy of my discharge letter for my GP",
            "when will the results of the {exam} be ready",
            "please send my medical records to Dr {other_family}",
            "I need a sick note for my employer from {date} on",
            "the report of my {exam} has not arrived yet, could you post it again",
            "could I have a written summary of my treatment for the visa office",
            "is the pathology report in, Dr {other_family} said it would take a week",
        ),
        "renewal": (
            "I have run out of {drug}, please renew the prescription",
            "can you send a repeat prescription for {drug} to my pharmacy",
            "my {drug} prescription expired on {date} and I need another month",
            "please renew {drug} {dose}, I take the last tablet on {date}",
            "the pharmacy says my prescription for {drug} has no refills left",
            "could Dr {other_family} extend my {drug} for three more months",
            "I lost the prescription for {drug}, please issue a new one",
            "my hearing aid batteries and inhaler need to be reissued, the old order ran out",
        ),
        "access": (
            "I cannot log in to the patient portal, it says that my password is wrong",
            "the app does not send me the security code any more",
            "my portal account is locked after too many attempts",
            "how do I reset the password of my online account",
            "the patient app crashes when I open my messages",
            "I never got the activation e-mail for the portal, I registered with {email}",
            "please unlock my online access, my user name is {email}",
            "the login page keeps saying session expired",
        ),
    },
    Profile.BANK: {
        "appointment": (
            "I would like to meet an adviser about a mortgage, is {date} free",
            "please move my meeting with {other} on {date} to the week after",
            "can somebody from the branch in {town} call me back to fix a time",
            "I need to cancel the appointment on {date} with my adviser",
            "do I need an appointment to open an account for my son",
            "is it possible to have the mortgage interview by video",
            "what time is my meeting at the {town} branch on {date}",
            "could I see somebody about my pension on a Saturday",
            "nobody was there for our appointment, please give me another slot",
        ),
        "billing": (
            "I was charged {amount} for a transfer that should be free",
            "why is there a fee of {amount} on my account {account}",
            "there is a payment of {amount} on {date} that I do not recognise",
            "I was charged twice for the same purchase, {amount} each time",
            "please refund the overdraft fee of {amount}",
            "the exchange rate you used cost me {amount} more than it should",
            "a subscription of {amount} is still taken from my card {card} although I cancelled it",
            "the interest on my statement is higher than what we agreed",
            "I withdrew {amount} at a machine and it was charged twice",
        ),
        "complaint": (
            "I waited forty minutes on hold and then your colleague hung up",
            "the clerk at the {town} branch was very rude to me",
            "I want to complain about how {other} dealt with my loan request",
            "this is the third letter I write and nobody answers, it is not acceptable",
            "I am very unhappy with how my late father's account was handled",
            "your branch in {town} closed without any notice, I expect an explanation",
            "nobody takes responsibility for the mistake that was made on {date}",
            "I felt discriminated against by your staff and wish to make a formal complaint",
        ),
        "coverage": (
            "does my travel insurance policy {policy} cover a cancelled flight",
            "is the phone that I bought with card {card} insured against theft",
            "my claim under policy {policy} was rejected, what can I do",
            "am I covered by the card's insurance when I rent a car abroad",
            "please tell me what the payment protection on my loan pays if I lose my job",
            "who do I ask whether the home insurance covers a burst pipe",
            "I want to file a claim for the luggage that was lost on {date}",
            "is my mother included in the family cover of policy {policy}",
        ),
        "details": (
            "I have moved, my new address is {address}",
            "please change the mobile number for security codes to {phone}",
            "I got married and my surname is now {family}, how do I change it on my account",
            "my date of birth is wrong in your system, it should be {born}",
            "please send statements to {email} from now on",
            "you spell my name wrong on the card, it is {name}",
            "I want to add {other} as a joint holder of account {account}",
            "please update my employer and my postal address, it is {address} now",
        ),
        "documents": (
            "I need a statement of account {account} for last year",
            "can you send me the tax certificate for my savings",
            "please send a letter that confirms my balance on {date}",
            "my statement for last month has not arrived yet, could you post it again",
            "I need a copy of the loan contract that I signed on {date}",
            "when will the annual report on my pension be ready",
            "could I have a written reference from the bank for the visa office",
            "please send my accountant, {other}, the statements of account {account}",
        ),
        "renewal": (
            "my card {card} expires this month and no new one has come",
            "please send a replacement, I lost my card on {date}",
            "my debit card is damaged, can I have a new one",
            "can you extend my overdraft for another year",
            "the new card was never delivered, please issue another",
            "my fixed-rate deposit ends on {date}, please renew it for a year",
            "when will the replacement for my stolen card arrive",
            "please reorder my cheque book, I used the last one",
        ),
        "access": (
            "I cannot log in to online banking, it says that my password is wrong",
            "the app does not send me the security code any more",
            "my online account is locked after too many attempts",
            "how do I reset my passcode",
            "the app crashes when I open my transfers",
            "I have a new phone and cannot activate the app, my number is {phone}",
            "please unlock my online access, my user name is {email}",
            "the login page keeps saying session expired",
        ),
    },
}

DETAILS: dict[str, tuple[str, ...]] = {
    "appointment": (
        "any morning would do",
        "I am free after {date}",
        "please confirm the time by text",
    ),
    "billing": ("I attach the receipt", "please correct the amount", "this cannot be right"),
    "complaint": (
        "who is the manager",
        "I would like an answer in writing",
        "I am really disappointed",
    ),
    "coverage": (
        "the insurer asks for a code",
        "I want to be sure before I pay",
        "they keep sending me back to you",
    ),
    "details": (
        "the old one is no longer valid",
        "please confirm that it is changed",
        "it changed on {date}",
    ),
    "documents": ("a scan is enough", "by post please", "I need it before {date}"),
    "renewal": ("I have only a few days left", "the same as before please", "it is rather urgent"),
    "access": ("I tried another browser", "it worked yesterday", "I get an error every time"),
}

SHARED_DETAILS = (
    "I have already called twice",
    "please get back to me soon",
    "I could not find this on your website",
    "it has been going on since {date}",
    "my husband has the same problem",
    "I spoke to {other} about it last week",
    "thank you for your help",
    "I am writing for my mother as well",
)

OPENINGS = (
    "Hello,",
    "Hello again,",
    "Hi,",
    "Hi there,",
    "Good morning,",
    "Dear team,",
    "Dear Sir or Madam,",
    "Dear {other},",
    "To whom it may concern,",
    "",
    "",
    "",
)

IDENTITIES: dict[Profile, tuple[str, ...]] = {
    Profile.HOSPITAL: (
        "my name is {name}, patient number {record_number}.",
        "this is {name}, born {born}.",
        "{name} here (MRN {record_number}).",
        "I am a patient of yours, record no. {record_number}.",
        "patient: {name}, DOB {born}, hospital no {record_number}.",
        "I'm {given} {family} from {town}.",
        "",
        "",
    ),
    Profile.BANK: (
        "my name is {name}, customer number {record_number}.",
        "this is {name}, account {account}.",
        "{name} here, client id {record_number}.",
        "I have been a customer for years, account no. {account}.",
        "account holder: {name}, born {born}, customer {record_number}.",
        "I'm {given} {family} from {town}.",
        "",
        "",
    ),
}

CLOSINGS = (
    "Regards, {name}",
    "Kind regards\n{name}\n{phone}",
    "Best wishes, {given} {family}, {email}",
    "Yours sincerely, {name}\n{street}\n{town} {postcode}",
    "{name}, {address}",
    "Thanks, {given}",
    "Cheers {given}",
    "Many thanks",
    "You can reach me on {phone}.",
    "Please call {phone} or write to {email}.",
    "",
    "",
)

NOTES: dict[Profile, str] = {
    Profile.HOSPITAL: (
        "Pt {name} ({record_number}) rang {date}: {request}. Call back {phone}. Taken by {other}."
    ),
    Profile.BANK: (
        "Customer {name}, no. {record_number}, called on {date}: {request}. Tel {phone}. "
        "Agent {other}."
    ),
}
"""How a clerk writes down a call."""

CLINICS = (
    "cardiology",
    "dermatology",
    "eye",
    "orthopaedic",
    "maternity",
    "neurology",
    "diabetes",
    "physiotherapy",
    "oncology",
    "dental",
)
EXAMS = (
    "blood test",
    "MRI scan",
    "X-ray",
    "colonoscopy",
    "ultrasound",
    "biopsy",
    "hearing test",
    "ECG",
    "CT scan",
    "allergy test",
)
DRUGS = (
    "metformin",
    "lisinopril",
    "atorvastatin",
    "levothyroxine",
    "omeprazole",
    "amlodipine",
    "salbutamol",
    "sertraline",
    "warfarin",
    "insulin",
    "ramipril",
    "bisoprolol",
)
DOSES = ("5 mg", "10 mg", "20 mg", "40 mg", "500 mg", "50 micrograms")
