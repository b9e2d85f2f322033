"""Forms of names, numbers and days that letters of hospitals and banks showed to be missed."""

from __future__ import annotations

import pytest

from client.deidentification.casing import read_casing
from client.deidentification.detection import Detector
from tests.client.data.detected import left


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("We are in Lisbon 2 to 9 October 2024 with him.", "2 to 9 October 2024"),
        ("We are open March 3-10, 2024 as agreed.", "March 3-10, 2024"),
        ("Please collect by Sat 10 May from us.", "Sat 10 May"),
        ("She woke on New Year's Day with a cough.", "New Year's Day"),
        ("I am free any day after 20th but not mornings.", "20th"),
        ("He was seen on the 3rd of June at ten past two by us.", "ten past two"),
        ("Rebooked for 24th Sept, 11.20 as asked.", "24th Sept, 11.20"),
        ("Le garage on 2023-02-24, 10 h 30 as agreed.", "10 h 30"),
        ("The drain was removed 4/3 at 1130 without trouble.", "4/3"),
        ("We paid them on the third.", "third"),
        ("He came inOctober after two courses.", "October"),
        ("Mr Chaudhry, 93 years old, lives alone.", "93 years old"),
        ("Resident Vera Stannard (90, keyworker Ann) has bruises.", "90"),
        ("Agreement no. SMF 0092217 K. I took out a loan.", "SMF 0092217 K"),
        ("booked as hosp no mn 553 091. all went well", "mn 553 091"),
        ("The account is 3049***218 as before.", "3049***218"),
        ("Card xxxx-xxxx-xxxx-1234 was declined.", "xxxx-xxxx-xxxx-1234"),
        ("My licence is PRICE 612084 GR9AB as shown.", "PRICE 612084 GR9AB"),
        ("The bakkie reg CA 481-227 was stolen.", "CA 481-227"),
        ("It is 3 1 4 4, 0 9 2 7 as I said.", "3 1 4 4, 0 9 2 7"),
        ("He called Mr Zhao at 086-5S5-O192 about it.", "086-5S5-O192"),
        ("Ring me on (337) 55S-0110 after lunch.", "(337) 55S-0110"),
        ("Call medical physics, bleep 2204, about it.", "bleep 2204"),
        ("He paid to BIC: ABNANL2A last week.", "ABNANL2A"),
        ("It was taken by PC 3391 to the station.", "3391"),
        ("They moved to 88 King Street West, Hamilton, ON L8P 1A2.", "ON L8P 1A2"),
        ("She lives in Clara, Co. Offaly R35 X2P8 now.", "R35 X2P8"),
        ("I live at No 17 Aba Road, Port Harcourt now.", "No 17 Aba Road"),
        ("I collect from Boots in town.", "Boots"),
        ("Her card was declined at CVS on Monday.", "CVS"),
        ("Payer: Lone Star Health Plan   Fax: none", "Lone Star Health Plan"),
        ("Trading name: Bunty's Burgers\nDate: none", "Bunty's Burgers"),
        ("I spoke to Grange Timber about the bill.", "Grange Timber"),
        ("This was said by Detective Carver of Kent Police.", "Kent Police"),
        ("We stayed at Hotel Lake Palace for a week.", "Hotel Lake Palace"),
        ("He was sent to Our Lady of Grace Medical Center.", "Our Lady of Grace Medical Center"),
        ("please write to the city of joondalup about it", "city of joondalup"),
        ("Surname: Reading\nColour: none", "Reading"),
        ("Patient: Mei-Ling Tan    Ward: none", "Mei-Ling Tan"),
        ("CALLER: Will Bamford was cut off", "Will Bamford"),
        ('The patient goes by "Kit" at home.', "Kit"),
        ("Hi Aled, just to confirm your visit.", "Aled"),
        ("It was approved by SJ.", "SJ"),
        ("Her consultant is Dr. Best.", "Best"),
        ("CNS April Cummings will call.", "April Cummings"),
        ("bed 6 frost, 58, alcohol detox", "frost"),
        ("I am a Jehovah's Witness and refuse blood.", "Jehovah's Witness"),
        ("The bus goes between Owerri and Aba at noon.", "Aba"),
    ],
)
def test_found_whole(detector: Detector, text: str, hidden: str) -> None:
    for word in hidden.split():
        assert word in text
        assert word not in left(detector, text).split(), hidden


@pytest.mark.parametrize(
    "text",
    [
        "My MATB1 is attached and the form is here.",
        "Fridge is noisy and the drawer sticks.",
        "In 2023, the court heard the case.",
        "Tinel positive, Mallampati two, Rinne normal.",
        "Eltroxin and Betnovate were stopped.",
        "He denies SOB, no JVP, LFT fine, sent to us.",
        "It weighs 5 or 6 kg and costs R649.00 in all.",
        "They removed 2/3 of the colon.",
        "Number to 500 people: none.",
        "The 20th century was long.",
    ],
)
def test_what_is_nobody_stays(detector: Detector, text: str) -> None:
    lost = set(text.split()) - set(left(detector, text).split())
    assert not {word for word in lost if word.strip(".,") not in ("2023", "20th")}, lost


def test_capitals_that_stand_anywhere_say_nothing(detector: Detector) -> None:
    text = "i AM writing ON behalf OF my LATE father emeka nwachukwu, WHO passed AWAY in THE night"
    casing = read_casing(text, detector.lexicon)
    assert (casing.wild, casing.careless, casing.silent) == (True, True, ((0, len(text)),))
    assert not {"emeka", "nwachukwu"} & set(left(detector, text).replace(",", "").split())
    for tame in (
        "He denies SOB, CP or LOC. NKDA. BP and HR were fine, ECG SR, U&E sent to the LAB today.",
        "PLEASE READ THIS CAREFULLY. Then sign the form and send it back to us by post, thank you.",
    ):
        assert not read_casing(tame, detector.lexicon).wild
