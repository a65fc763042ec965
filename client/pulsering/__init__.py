"""Pulsering: is this user online right now?"""
