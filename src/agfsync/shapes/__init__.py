"""The embedded Shapes world: scenes, drawing, language, oracle, and the small trained models that come with it."""
