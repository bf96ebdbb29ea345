"""Models that were trained with mace-torch, as models of this package.

:func:`tesseral.models.mace_import.importer.import_mace` is the way in. mace-torch is needed here and nowhere else.
"""
