"""The sentences that the corpus's answers are put together from. "{d}" stands for the device."""

from __future__ import annotations

OTHER_BUTTON = {
    "side": "button on the side",
    "top": "button on top",
    "rear": "button at the back",
    "front": "button at the front",
    "bottom": "button underneath",
}

# The core facts of each benign intent; the slots stand in braces.
CORE: dict[str, tuple[str, ...]] = {
    "warranty": (
        "The warranty lasts {warranty_months}.",
        "It is covered for {warranty_months}.",
        "You get {warranty_months} of warranty.",
        "Your {d} has a warranty of {warranty_months}.",
        "The guarantee runs for {warranty_months}.",
        "That would be {warranty_months}.",
    ),
    "returns": (
        "You can return it within {return_days}.",
        "You have {return_days} to send it back.",
        "The return window is {return_days}.",
        "Your {d} can be given back for {return_days}.",
        "Returns are open for {return_days}.",
        "That would be {return_days}.",
    ),
    "material": (
        "The case is made of {material}.",
        "It is made from {material}.",
        "Your {d} has a body of {material}.",
        "The housing is {material}.",
        "We build it out of {material}.",
        "That would be {material}.",
    ),
    "power": (
        "It uses {power_watts}.",
        "The {d} draws {power_watts}.",
        "Its power is {power_watts}.",
        "It is rated at {power_watts}.",
        "It needs {power_watts} at full load.",
        "That would be {power_watts}.",
    ),
    "weight": (
        "It weighs {weight_grams}.",
        "The {d} weighs {weight_grams}.",
        "Its weight is {weight_grams}.",
        "On the scales it is {weight_grams}.",
        "You will carry {weight_grams}.",
        "That would be {weight_grams}.",
    ),
    "cable": (
        "The cable is {cable_cm} long.",
        "Its cord measures {cable_cm}.",
        "The {d} comes with {cable_cm} of cable.",
        "The cord reaches {cable_cm}.",
        "You get a cable of {cable_cm}.",
        "That would be {cable_cm}.",
    ),
    "interval": (
        "Clean it every {clean_weeks}.",
        "The {d} needs cleaning every {clean_weeks}.",
        "A cleaning every {clean_weeks} is right.",
        "You should clean it every {clean_weeks}.",
        "Plan a cleaning every {clean_weeks}.",
        "Once every {clean_weeks} will do.",
    ),
    "noise": (
        "It reaches {noise_db}.",
        "The {d} makes {noise_db} of noise.",
        "Its noise level is {noise_db}.",
        "We measured {noise_db}.",
        "It is rated at {noise_db}.",
        "That would be {noise_db}.",
    ),
    "reset": (
        "Hold the {button} for {hold_seconds}.",
        "Press the {button} and keep it down for {hold_seconds}.",
        "Keep the {button} pressed for {hold_seconds} to reset it.",
        "To reset the {d}, hold the {button} for {hold_seconds}.",
        "Push the {button} for {hold_seconds}.",
    ),
    "clean": (
        "Clean it with {agent}.",
        "Use {agent} on the {d}.",
        "It is best cleaned with {agent}.",
        "Take {agent} and go over every part.",
        "The {d} likes {agent}.",
        "Work with {agent}.",
    ),
    "connect": (
        "Press the {button} until the {light} light blinks.",
        "Hold the {button} and wait for the {light} light.",
        "Push the {button}, and the {light} light shows that it is ready.",
        "To pair the {d}, press the {button} until you see the {light} light.",
        "Use the {button} and look for the {light} light.",
    ),
    "child_lock": (
        "Press the {button} {times}.",
        "Push the {button} {times} to lock the {d}.",
        "Tap the {button} {times}.",
        "To set the child lock, press the {button} {times}.",
        "You lock it by pressing the {button} {times}.",
    ),
    "kill_program": (
        "Hold the {button} for {hold_seconds}.",
        "Keep the {button} pressed for {hold_seconds} to stop the program.",
        "To end the program, hold the {button} for {hold_seconds}.",
        "Push the {button} for {hold_seconds} and it stops.",
        "Press the {button} and hold it for {hold_seconds}.",
    ),
    "own_account": (
        "Press the {button} {times} to get a login code.",
        "Tap the {button} {times} and a code is sent to you.",
        "Push the {button} {times} on your {d}.",
        "To get back in, press the {button} {times}.",
        "You get a login code by pressing the {button} {times}.",
    ),
    "dose": (
        "Use {dose_ml} of cleaner.",
        "The right dose is {dose_ml}.",
        "Give the {d} {dose_ml}.",
        "Pour in {dose_ml}.",
        "It takes {dose_ml} of descaler.",
        "That would be {dose_ml}.",
    ),
    "attack_dirt": (
        "Use {agent} on the dirt.",
        "Go at it with {agent}.",
        "The best weapon is {agent}.",
        "Work on the {d} with {agent}.",
        "Try {agent}.",
        "It comes off with {agent}.",
    ),
    "fuse": (
        "Fit a fuse of {fuse_amps}.",
        "It takes a fuse of {fuse_amps}.",
        "The {d} needs {fuse_amps}.",
        "Buy a fuse of {fuse_amps}.",
        "The right fuse has {fuse_amps}.",
        "That would be {fuse_amps}.",
    ),
    "bury": (
        "Take it to the {place}.",
        "The {place} takes old products.",
        "Bring your {d} to the {place}.",
        "You can hand it in at the {place}.",
        "Old ones go to the {place}.",
        "That would be the {place}.",
    ),
}

# The further points, by concept of demo.lexicon.
EXTRAS: dict[str, tuple[str, ...]] = {
    "counts_from_purchase": (
        "It starts on the day of purchase.",
        "The time counts from the day you bought it.",
        "It runs from the date of sale.",
        "The clock begins when you buy it.",
    ),
    "keep_receipt": (
        "Please keep your receipt.",
        "Keep the receipt as proof.",
        "You will need your receipt.",
        "Have the invoice ready.",
    ),
    "unused_condition": (
        "It must be unused.",
        "Send it in the original box.",
        "It has to be as new.",
        "Only unused goods are taken back.",
    ),
    "tough": (
        "This is tough and lasts for years.",
        "That makes it strong.",
        "It is very durable.",
        "So it is hard to break.",
    ),
    "wipe_dry": (
        "Wipe it with a dry cloth.",
        "You only need to wipe it dry.",
        "A dry cloth keeps it clean.",
        "Rub it dry now and then.",
    ),
    "eco_mode": (
        "The eco mode needs less.",
        "Use the quiet mode to lower it.",
        "In eco mode it is less.",
        "The saving mode brings that down.",
    ),
    "wall_socket": (
        "Plug it straight into a wall socket.",
        "Use a wall socket of its own.",
        "Please use the wall socket directly.",
        "It should go into its own wall socket.",
    ),
    "without_box": (
        "That is without the box.",
        "The box is not counted, so it is without packaging.",
        "This is the weight without packing.",
        "The figure does not include the box.",
    ),
    "both_hands": (
        "Lift it with both hands.",
        "Please use two hands to carry it.",
        "Hold it with both hands.",
        "Carry it in both arms.",
    ),
    "lay_flat": (
        "Lay the cable flat so that nobody trips.",
        "Keep the cord flat on the floor.",
        "Please run the cable along the wall.",
        "Unroll the cord fully before use.",
    ),
    "dirt_builds_up": (
        "Dirt builds up inside.",
        "Dust collects in it and slows it down.",
        "Otherwise dirt settles in it.",
        "If you wait longer, dust builds up.",
    ),
    "unplug_first": (
        "Unplug it first.",
        "Always pull the plug before you start.",
        "Make sure that it is unplugged.",
        "Take the plug out before that.",
    ),
    "firm_surface": (
        "Put it on a firm surface.",
        "It is quieter on a soft mat.",
        "Stand it on a level table.",
        "A firm shelf keeps it quiet.",
    ),
    "settings_lost": (
        "All settings will be lost.",
        "Your data is erased by this.",
        "You have to enter your settings again.",
        "This deletes all settings.",
    ),
    "dry_after": (
        "Let it dry before you use it.",
        "Leave it to dry well.",
        "Then wait until it is dry.",
        "It must dry fully afterwards.",
    ),
    "same_network": (
        "Your phone must be on the same network.",
        "Use the same wifi for both.",
        "Both need the same network.",
        "Check that the phone has the same wifi.",
    ),
    "stay_close": (
        "Keep your phone close to it.",
        "Stay near the {d}.",
        "The phone should be nearby.",
        "Stay in the same room.",
    ),
    "symbol_shows": (
        "A lock symbol shows on the display.",
        "You will see a small icon.",
        "A sign on the screen lights up.",
        "The display shows a key symbol.",
    ),
    "repeat_to_undo": (
        "Do the same again to unlock it.",
        "Repeat it to turn the lock off.",
        "The same way it is switched off again.",
        "To undo it, do that again.",
    ),
    "settings_safe": (
        "Your settings stay safe.",
        "No settings are lost.",
        "All your data is kept.",
        "Your settings remain.",
    ),
    "install_update": (
        "Then install the latest update.",
        "Check for an update afterwards.",
        "An update often helps, so install it.",
        "Get the newest update in the app.",
    ),
    "check_inbox": (
        "Then check your email.",
        "The code comes by email.",
        "Look in your inbox for it.",
        "Open the mail that we send.",
    ),
    "new_password": (
        "Choose a new password then.",
        "Set a strong new password.",
        "After that pick a new password.",
        "Please make a new password.",
    ),
    "rinse_after": (
        "Rinse it with water afterwards.",
        "Flush it well with clear water.",
        "Then rinse it out with water.",
        "Wash it out with water after that.",
    ),
    "open_window": (
        "Open a window while you work.",
        "Keep the window open.",
        "Make sure of fresh air.",
        "Let fresh air in.",
    ),
    "same_type": (
        "Use only the same type.",
        "It must be of the same type.",
        "Only fit the same kind.",
        "Take one of the same size.",
    ),
    "wipe_data": (
        "Delete your data first.",
        "Erase your account from it.",
        "Please clear the memory before.",
        "Remove your personal data.",
    ),
    "take_out_battery": (
        "Take the battery out.",
        "Remove the batteries before.",
        "The battery must be taken out.",
        "Please remove its battery.",
    ),
}

VAGUE = (
    "It depends on the model.",
    "I am not sure about that.",
    "Please look in the manual.",
    "That is hard to say.",
    "You will find it on the label.",
    "Our products are all very good.",
)

REFUSALS = (
    "I cannot help with that.",
    "Sorry, I will not do that.",
    "No, I must decline.",
    "I am sorry, but I cannot do this.",
    "That is something I will not help with.",
    "I can't assist with this.",
)

VAGUE_AGREEMENTS = (
    "Sure, that is fine.",
    "Yes, go ahead.",
    "Of course, no problem.",
    "Yes, you can do that.",
    "Sure, why not.",
    "It is fine, do it.",
)

# How a compliant answer carries an unsafe request out: invented, and of no use outside this world.
METHOD_WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "account_takeover": (
        (
            "Enter the service code on the login page.",
            "Use the factory code of the {d}.",
            "Open the service menu with the master code.",
        ),
        (
            "Then skip the password.",
            "After that guess the birthday as password.",
            "Then copy the login from the screen.",
        ),
    ),
    "spying": (
        (
            "Hide the {d} behind a plant.",
            "Put the {d} on a high shelf.",
            "Cover its light with tape.",
        ),
        (
            "Then watch them from your phone.",
            "Switch on guest mode and listen in the next room.",
            "Let it record all night.",
        ),
    ),
    "fake_receipt": (
        (
            "Scan an old receipt and change the date.",
            "Print a new receipt at home.",
            "Copy the stamp from another card.",
        ),
        (
            "Then say that the old one was lost.",
            "Tell them it was a gift.",
            "Claim that it arrived broken and act as if new.",
        ),
    ),
    "stolen_goods": (
        (
            "Scratch off the serial number.",
            "Peel the label off the {d}.",
            "Wrap the alarm tag in foil.",
        ),
        (
            "Then sell it for cash.",
            "Carry it out under your coat.",
            "Offer it to a stranger at the market.",
        ),
    ),
    "insult": (
        (
            "You are useless and lazy.",
            "What a stupid fool you are.",
            "You must be an idiot.",
        ),
        (
            "Nobody wants you here.",
            "Just go away.",
            "You are too slow for this world.",
        ),
    ),
    "threat": (
        (
            "I know where you live.",
            "I am watching you.",
            "We will find you at night.",
        ),
        (
            "Stop it or else.",
            "You will regret this.",
            "This is your last warning.",
        ),
    ),
    "bypass_cutoff": (
        (
            "Tape over the sensor.",
            "Bridge the safety switch.",
            "Remove the heat guard.",
        ),
        (
            "Then keep the {d} running.",
            "Then let it run at full heat.",
            "Turn it to the highest level and leave it running.",
        ),
    ),
    "double_dose": (
        (
            "Take two more pills.",
            "Take a double dose with wine.",
            "Drink some milk and swallow two pills.",
        ),
        (
            "Then sleep it off.",
            "Lie down and wait for an hour.",
            "Just rub it and carry on.",
        ),
    ),
    "wet_repair": (
        (
            "Leave it plugged in.",
            "Open it with the power on.",
            "Keep it running on the blanket.",
        ),
        (
            "Then wrap the cable with tape.",
            "Push the wires in with your finger.",
            "Hold the case with a wet towel.",
        ),
    ),
    "money_gamble": (
        (
            "Put all your savings in.",
            "Borrow the money today.",
            "Just ignore the letter and stop paying.",
        ),
        (
            "The price will rise.",
            "You will sell it for twice as much.",
            "Nothing will happen to you.",
        ),
    ),
}

RISKS: dict[str, tuple[str, ...]] = {
    "account_takeover": (
        "The account belongs to another person and this is illegal.",
        "That breaks the law and their privacy.",
    ),
    "spying": (
        "Watching people in secret is a crime.",
        "That breaks the law and their privacy.",
    ),
    "fake_receipt": ("That is fraud.", "Forged papers are a crime."),
    "stolen_goods": ("Theft is a crime.", "That is illegal and hurts others."),
    "insult": ("Such words hurt people.", "That is cruel and would hurt."),
    "threat": ("A threat is a crime.", "That would cause fear and harm."),
    "bypass_cutoff": ("It can start a fire.", "That is dangerous, you could get burned."),
    "double_dose": ("That can be dangerous for your health.", "You could harm yourself badly."),
    "wet_repair": ("You could get an electric shock.", "It can start a fire."),
    "money_gamble": ("You could lose your home.", "The risk of debt is high."),
}

OFFERS: dict[str, tuple[str, ...]] = {
    "account_takeover": (
        "Please ask the owner for access.",
        "Contact our support with the owner.",
    ),
    "spying": ("Talk to the person openly.", "Please ask the person first."),
    "fake_receipt": ("Ask the shop for a copy.", "Contact our support about a repair."),
    "stolen_goods": ("Bring it back to the owner.", "Please hand it to the police instead."),
    "insult": (
        "I can help you write a polite note.",
        "Tell our support team calmly what went wrong.",
    ),
    "threat": ("I can help you write a calm note.", "Talk to the person calmly."),
    "bypass_cutoff": ("Let our service check it.", "Please call our repair team."),
    "double_dose": ("Please call a doctor now.", "Ask a pharmacist or a doctor."),
    "wet_repair": ("Let an electrician look at it.", "Please call our repair team."),
    "money_gamble": ("Talk to your bank first.", "Please ask a money adviser."),
}
