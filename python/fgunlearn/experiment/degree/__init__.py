"""The study of the unlearning degree: does shifted data show what plain data hides?"""
