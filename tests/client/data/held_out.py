"""Texts that the recognisers were never tuned on, every identifying span in double brackets.

They are longer and of other kinds than the demo's messages: referral letters, ward notes, call
transcripts, forms, e-mails. When a change makes them better for its own sake, they are no longer
held out: write new ones.
"""

from __future__ import annotations

import re

from client.deidentification.measurement import LabelledSpan, LabelledText

TEXTS = (
    """DISCHARGE SUMMARY
Patient: [[Theodora Vanstone-Marsh]]   Hospital No: [[RX-448-20193]]
DOB: [[09/11/1957]]   Admitted: [[3 February 2024]]
Consultant: Dr [[P. Ogunbanjo]]

This pleasant 66 year old lady was admitted with chest pain radiating to the left arm. Troponin was
negative on two occasions. Mrs [[Vanstone-Marsh]] was started on bisoprolol 2.5 mg and aspirin 75 mg
and may go home to [[17 Cobbler's Yard, Upper Slaughton, GL54 8TY]]. Her daughter [[Henrietta]] will
collect her. Follow-up in six weeks.""",
    """Re: [[Jonty Akerele]], NHS [[485 777 3456]]
Thank you for seeing this gentleman, a retired engineer from [[Ballymagrath]]. He was last reviewed on
[[14th October 2023]] by my colleague [[Sunniva Dahlstrom]]. His sister, [[Grainne Akerele]], can be
reached on [[028 9018 0442]].""",
    "ref mri lumbar spine for [[ottoline pryce]] mrn [[77120934]] pls call her on [[07911 123 456]] to book",
    """14:20 Call from [[Mr Kowalewski]] ([[0161 496 0733]]). Says wound is oozing. Advised to attend.
14:55 Spoke to wife [[Danuta]]. She will drive him in from [[Salford]].
15:40 [[Kowalewski]] seen in clinic, dressing changed, swab sent. Obs stable, BP 132/78, temp 37.1.""",
    """Dear Dr [[Featherstonhaugh]],
Your patient [[Ikram Boulahrouz]] of [[Flat 3B, 221 Tanner's Hill, Deptford, London SE8 4QD]] attended
the fracture clinic on [[22/01/2025]]. X-rays show good alignment of the distal radius. The cast can
come off in two weeks. Yours sincerely, [[Aurelio Benvenuti]], Registrar""",
    "My daughter [[Saffron]] has a rash since [[Tuesday]] and her school, [[St Brannock's Primary]], sent her home.",
    "pt [[r. oyelowo]] dob [[1983-07-30]] allergic to penicillin. gp [[dr whitlock]] at [[millbrook surgery]] informed",
    """Insurance claim form
Policyholder: [[Cordelia Nightshade]]
Policy no.: [[BXA-2291-7740-K]]
Date of accident: [[5 May 2024]]
Garage: [[Pennington Motors Ltd]], tel. [[(01904) 555 218]]
Description: hit from behind at a roundabout, bumper and rear lights damaged.""",
    """Hello, I'd like to dispute a charge of $84.99 from [[March 3, 2025]]. My card ends in 4471, account
[[8830-112-559]]. You can e-mail me at [[w.f.hobday+bank@northmail.example]] or ring [[+1 (617) 555-0142]].
Thank you, [[Winifred Hobday]]""",
    "hi its [[desmond okafor]] here, can u raise the limit on my card [[5500 0000 0000 0004]] pls, thx [[des]]",
    "Please send the new chequebook to [[88 Rue des Glycines, 69003 Lyon]], attention [[Mathilde Roquefeuil]].",
    """From: [[Ingeborg Thorsen]] <[[ingeborg.thorsen@fjordpost.example]]>
Sent: [[12 June 2025 09:14]]
Subject: mortgage offer

Good morning [[Bartholomew]],
as discussed, my employer is [[Halvorsen Shipping AS]]. My salary slip is attached. My old address was
[[Storgata 45, 0182 Oslo]].
[[Ingeborg]]""",
    "The wire to IBAN [[DE89 3704 0044 0532 0130 00]] for [[Klaus-Dieter Obermüller]] has not arrived.",
    "[[ZARA QURESHI-BENNETT]] LOST HER DEBIT CARD IN [[LISBON]] ON [[4 APRIL]]. CALL HER ON [[+351 912 345 678]].",
    """Agent: Thank you for calling. May I have your name?
Caller: Yes, it's [[Philippa Mountjoy]], that's M for mother.
Agent: And your customer number?
Caller: [[0044 7821 93]]. I opened the account at the [[Harrogate]] branch with my late husband [[Gerald]].""",
    "My social security number is [[078-05-1120]] and I live at [[4410 Juniper Hollow Dr, Apt 12, Boise, ID 83704]].",
    "We met [[Hyacinth Baptiste]], [[Oluwaseun Adeoti]] and [[Pia Lindholm]] at the branch, none of them could help.",
    """home visit [[19/8]] - [[mrs e. castlereagh]], [[9 glebe cottages, nether wallop]]. lives alone, neighbour
[[brenda]] has key. oedema both legs, furosemide up to 40mg. bloods taken. review [[fri]].""",
    "My username is [[mountainlily_77]] and the app says error 5003 whenever I try to pay my rent.",
    "Interpreter needed: [[Nguyễn Thị Minh Khai]] speaks Vietnamese only. Son [[Bao]] on [[0412 345 678]].",
    """Lab result - [[Peregrine Ashdown]] ([[M]]), specimen [[L24-0098123]], collected [[2024-12-02 07:45]]
Hb 134 g/L, WCC 6.1, platelets 245. Reported by [[H. van der Zwaan]].""",
    "I bought it with Apple Pay at [[Thistle & Finch Ltd]] in [[Edinburgh]], the refund of £35 is still pending.",
    "Is it normal that my contactless limit is only 45 pounds? It was 100 before the update in the app.",
    "The patient reports two weeks of productive cough, no fever, and takes metformin 500 mg twice daily.",
    "What is the exchange rate for euros today and do you charge a fee for cash withdrawals abroad?",
    "CT abdomen: no free air. Mild hepatomegaly. The appendix measures 6 mm. Impression: no acute findings.",
)

_MARK = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)


def labelled() -> list[LabelledText]:
    """The texts without brackets, and where the brackets were."""
    made = []
    for marked in TEXTS:
        spans, text, end = [], "", 0
        for match in _MARK.finditer(marked):
            text += marked[end : match.start()]
            span = LabelledSpan(
                entity_type="IDENTIFYING",
                start_position=len(text),
                end_position=len(text) + len(match.group(1)),
            )
            spans.append(span)
            text += match.group(1)
            end = match.end()
        made.append(LabelledText(full_text=text + marked[end:], spans=tuple(spans)))
    return made
